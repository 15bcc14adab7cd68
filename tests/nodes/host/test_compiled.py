"""The cache beside torch.compile: the same picture, the cache in use, and nothing left for other graphs to trip over.

The host's TorchCompileModel keeps one store of compiled code for all graphs of a process, and lets no guard look at
transformer_options. So an order of graphs matters, and every test begins with an empty store.
"""

import os
import shutil

import pytest
import torch

from host.edits import cached, edit, klein_model, prompt, reference, relative

# Inductor fuses float32 sums into other orders; 1.5e-6 was seen. Without its references a picture is 5e-3 away.
SAME_MATHS = 1e-5
COMPILER = os.environ.get("CXX", "g++")

inductor = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"inductor compiles C++, and there is no {COMPILER} here"
)


@pytest.fixture(autouse=True)
def nothing_compiled(comfy_host):
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def small(comfy_host):
    """Attention as on a processor: it asks for the free memory, which torch cannot follow into."""
    return klein_model(blocks=1)


def as_on_a_card(model):
    """Attention of which torch can make one piece of code with all the rest."""
    from comfy.ldm.modules.attention import attention_pytorch

    options = model.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)
    return model


@pytest.fixture
def model(small):
    return as_on_a_card(small)


def refs():
    return [reference(1), reference(2, 4, 8)]


def compiled(model, backend="eager"):
    """Behind TorchCompileModel; eager is torch's own backend that runs what was captured as it is."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    return TorchCompileModel.execute(model, backend).args[0]


class Graphs:
    """The four graphs one may run on one model, compiled, each checked against itself uncompiled."""

    def __init__(self, model, backend="eager"):
        ours, self.shown = cached(model)
        plain, _ = cached(model)
        self.wanted = {
            "cached": edit(plain, refs()), "stock": edit(model, refs()), "no references": edit(model),
            "cache without references": edit(model),
        }  # fmt: skip
        ours, theirs = compiled(ours, backend), compiled(model, backend)
        self.run = {
            "cached": lambda: edit(ours, refs()), "stock": lambda: edit(theirs, refs()),
            "no references": lambda: edit(theirs), "cache without references": lambda: edit(ours),
        }  # fmt: skip

    def in_order(self, *names):
        for name in names:
            assert relative(self.run[name](), self.wanted[name]) < SAME_MATHS, name
        assert all(line.startswith(("hit", "no references")) for line in self.shown), self.shown


@inductor
def test_the_cached_edit_then_compiled_then_compiled_without_the_cache(model):
    graphs = Graphs(model, "inductor")
    assert relative(graphs.wanted["cached"], graphs.wanted["stock"]) > 100 * SAME_MATHS
    graphs.in_order("cached", "stock")


ORDERS = [
    ("cached", "stock", "no references", "cache without references", "cached"),
    ("cache without references", "no references", "cached", "stock"),
    ("stock", "cached", "no references"),
]


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_graphs_in_any_order(model, order):
    Graphs(model).in_order(*order)


def test_graphs_in_turn_where_the_code_falls_to_pieces(small):
    Graphs(small).in_order("no references", "cached", "stock", "cached")


def test_it_is_one_piece_of_code(comfy_host):
    from torch._dynamo.utils import counters

    graphs = Graphs(as_on_a_card(klein_model(blocks=2)))
    counters.clear()
    graphs.run["cached"]()
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1
    graphs.run["cached"]()
    assert counters["stats"]["unique_graphs"] == 1, "the second run is compiled again"


def test_int8_references_and_another_set_for_the_negative(model):
    from klein9b.klein.kv_store import Storage

    variation = {"negative_references": [reference(3, 6, 5), reference(4, 4, 8)], "negative": prompt(2), "cfg": 3.0}
    wanted = edit(cached(model, storage=Storage.INT8)[0], refs(), **variation)
    ours, shown = cached(model, storage=Storage.INT8)
    assert relative(edit(compiled(ours), refs(), **variation), wanted) < SAME_MATHS
    assert shown[-1].startswith("hit: 2 references")
    exact, shown = cached(model)
    assert relative(edit(compiled(exact), refs(), **variation), wanted) > 10 * SAME_MATHS
    assert shown[-1].startswith("miss: 2 references")


def test_blocks_compiled_one_by_one_as_other_packs_do(model):
    """Ours take their place, so that the references are an argument there too."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    wanted, stock = edit(cached(model)[0], refs()), edit(model, refs())
    ours, shown = cached(model)
    keys = [f"diffusion_model.{kind}_blocks.0" for kind in ("double", "single")]
    for one, picture in ((ours.clone(), wanted), (model.clone(), stock)):
        set_torch_compile_wrapper(one, "eager", keys=keys)
        assert relative(edit(one, refs()), picture) < SAME_MATHS
    assert shown[-1].startswith("hit")


@pytest.mark.parametrize("with_cache", [False, True], ids=["alone", "with the cache"])
def test_an_accelerated_model_is_left_to_the_compiler(model, with_cache):
    """It fuses the ops of the host's blocks, or of the cache's, itself."""
    from klein9b.nodes.host.acceleration import Acceleration, accelerated
    from klein9b.nodes.host.block_functions import eager_ops

    asked = []
    plain = cached(model)[0] if with_cache else model
    wanted = edit(plain, refs())
    faster = accelerated(plain, Acceleration(lambda like: asked.append(like) or eager_ops(), "test", lambda _: None))
    assert relative(edit(compiled(faster), refs()), wanted) < SAME_MATHS
    assert len(asked) == with_cache, "the references' own pass is not compiled"


def test_beside_blocks_that_another_node_changes_it_steps_aside(model, caplog):
    patched = model.clone()
    patched.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 0)
    wanted = edit(patched, refs())
    ours, shown = cached(patched)
    assert relative(edit(compiled(ours), refs()), wanted) < SAME_MATHS
    assert shown == ["stock path: the model is compiled, and another node changes some of its blocks"]
    assert len([r for r in caplog.records if "steps aside" in r.getMessage()]) == 1
