"""Klein 9B Accelerate as a graph runs it."""

import logging

import pytest
import torch

from host.edits import cached, edit, klein_model, reference, relative

pytestmark = pytest.mark.usefixtures("comfy_host")
EXACT = 1e-5
DEFAULTS = {"profile": "exact", "attention": "auto", "cfg_from": 0.0, "cfg_until": 1.0}


@pytest.fixture
def model():
    return klein_model()


@pytest.fixture
def said(monkeypatch):
    """What stood under the node."""
    import klein9b.nodes.accelerate as node

    texts = []
    monkeypatch.setattr(node, "show_text", lambda _, text: texts.append(text))
    return texts


def accelerated(model, **inputs):
    from klein9b.nodes.accelerate import Klein9BAccelerate

    (faster,) = Klein9BAccelerate.execute(model, **(DEFAULTS | inputs)).args
    return faster


def refs():
    return [reference(1), reference(2)]


@pytest.mark.parametrize("profile", ["exact", "fast"])
@pytest.mark.parametrize("attention", ["auto", "sdpa"])
def test_the_picture_is_stocks(model, said, profile, attention):
    faster = accelerated(model, profile=profile, attention=attention)
    assert relative(edit(faster, refs()), edit(model, refs())) < EXACT
    first, second = said[-1].splitlines()
    assert first.startswith(f"{profile}: in torch alone: Triton needs a GPU.") and second.startswith(f"{attention}: ")


@pytest.mark.parametrize("attention", ["sage", "kitchen int8"])
def test_an_attention_that_is_not_here_is_one_sentence(model, said, attention):
    faster = accelerated(model, attention=attention)
    assert relative(edit(faster), edit(model)) < EXACT
    assert "so ComfyUI's own attention runs." in said[-1].splitlines()[1]


def test_what_is_left_to_the_host_is_said(model, said):
    patched = model.clone()
    patched.set_model_patch(lambda attn, _: attn * 0.9, "attn1_output_patch")
    edit(accelerated(patched))
    assert said[-1].startswith("nothing was accelerated")
    assert "left to ComfyUI: 4 blocks, as another node patches attn1_output_patch, inside the block" in said[-1]


def test_a_few_blocks_are_named(model, said):
    block = model.model.diffusion_model.single_blocks[0]
    stock = block.forward
    block.forward = lambda *args, **kwargs: stock(*args, **kwargs) * 0.5
    edit(accelerated(model))
    assert said[-1].startswith("exact: ")
    assert "left to ComfyUI: single block 0, as something is hung onto it" in said[-1].splitlines()


def test_compiled_code_is_left_to_the_compiler(said):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    model = klein_model(blocks=1)
    (compiled,) = TorchCompileModel.execute(accelerated(model), "eager").args
    assert relative(edit(compiled), edit(model)) < EXACT
    assert said[-1].startswith("nothing was accelerated: compiled code has its passes joined by the compiler")


def test_cfg_in_a_part_of_the_schedule(model, said):
    whole = edit(accelerated(model), refs(), cfg=4.0, steps=4)
    assert relative(whole, edit(model, refs(), cfg=4.0, steps=4)) < EXACT
    part = edit(accelerated(model, cfg_from=0.0, cfg_until=0.5), refs(), cfg=4.0, steps=4)
    assert relative(part, whole) > 1e-3
    assert said[-1].endswith("approximate: cfg acts only from 0% to 50% of the schedule")
    never = edit(accelerated(model, cfg_from=1.0, cfg_until=1.0), refs(), cfg=4.0, steps=4)
    assert relative(never, edit(model, refs(), cfg=1.0, steps=4)) < EXACT


def test_an_interval_the_wrong_way_round():
    from klein9b.nodes.accelerate import Klein9BAccelerate

    assert Klein9BAccelerate.validate_inputs(0.2, 0.8) is True
    wanted = "cfg_from is 0.8 and cfg_until 0.2: expected the earlier one first."
    assert Klein9BAccelerate.validate_inputs(0.8, 0.2) == wanted


def test_keys_are_found_again_in_the_next_execution(model, said):
    """A graph run anew makes a new clone; the same choices compute the same."""
    lines = []
    for _ in range(2):
        ours, shown = cached(accelerated(model))
        edit(ours, refs())
        lines += shown
    assert [line.split(":")[0] for line in lines] == ["miss", "hit"]
    ours, shown = cached(accelerated(model, profile="fast"))
    edit(ours, refs())
    assert shown[0].startswith("miss")


def test_another_model_passes_through(said, caplog):
    class Other(torch.nn.Module):
        pass

    class Patcher:
        def get_model_object(self, name):
            return Other()

    other = Patcher()
    with caplog.at_level(logging.WARNING):
        assert accelerated(other) is other
    assert said == ["OFF: the diffusion model is a Other, not the host's Flux"] and len(caplog.records) == 1


@pytest.mark.parametrize(
    "name",
    [
        "comfy.ldm.flux.math.apply_rope1",
        "comfy.ldm.flux.math.attention",
        "comfy.model_management.in_training",
        "comfy.ops.cast_bias_weight",
        "comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights",
        "comfy.ops.uncast_bias_weight",
        "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
        "comfy.quant_ops.QuantizedTensor",
    ],
)
def test_a_host_without_what_it_needs(model, said, monkeypatch, name):
    """It is told before a run, not in the middle of one."""
    monkeypatch.delattr(name)
    assert accelerated(model) is model
    assert said[0].startswith(f"OFF: Klein 9B needs {name}, which ")
