"""What counts as missing from the host, and how it is told."""

import logging
import sys

import pytest
import torch

from host.edits import cached, edit, klein_model, reference

SENTENCE = "Klein 9B needs {}, which ComfyUI 0.29 to 0.33 have and {} lacks: update Klein 9B, or use one of those."


@pytest.fixture
def told(comfy_host):
    """The sentence for a name."""
    import comfyui_version

    return lambda name, host=f"ComfyUI {comfyui_version.__version__}": SENTENCE.format(name, host)


def missing(action):
    from klein9b.nodes.host.newer_host import MissingFromHost, needs_host

    with pytest.raises(MissingFromHost) as error, needs_host():
        action()
    return str(error.value)


def host_functions():
    from klein9b.nodes.host.block_functions import host_functions

    return host_functions({})


def test_a_name_of_a_module(told, monkeypatch):
    import comfy.ldm.flux.math

    monkeypatch.delattr(comfy.ldm.flux.math, "apply_rope1")
    assert missing(host_functions) == told("comfy.ldm.flux.math.apply_rope1")


def test_a_whole_module(told, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy.ldm.flux.math", None)
    assert missing(host_functions) == told("comfy.ldm.flux.math")


def test_an_attribute_of_the_hosts_object(told):
    """Also where torch looks it up."""
    from klein9b.klein.kv_store import Storage, bytes_per_token

    model = klein_model().model.diffusion_model
    del model.hidden_size
    assert missing(lambda: bytes_per_token(model, Storage.MODEL, torch.float32)) == told(
        "comfy.ldm.flux.model.Flux.hidden_size"
    )


def test_a_host_that_does_not_tell_its_version(told, monkeypatch):
    import comfy.ldm.flux.math

    monkeypatch.delattr(comfy.ldm.flux.math, "attention")
    monkeypatch.setitem(sys.modules, "comfyui_version", None)
    assert missing(host_functions) == told("comfy.ldm.flux.math.attention", "this ComfyUI")


def test_the_versions_it_names_begin_with_the_oldest_supported(comfy_host):
    from host.checkout import PACK
    from klein9b.nodes.host.newer_host import TRIED

    assert f'requires-comfyui = ">={TRIED.split()[0]}.0"' in (PACK / "pyproject.toml").read_text()


def test_what_the_host_misses_itself_is_its_own_error(comfy_host, monkeypatch):
    """A bug of the host, or of another pack's patch in it, is not this pack's to explain."""
    import node_helpers

    from klein9b.nodes.host.reference_pictures import join

    with pytest.raises(AttributeError, match="'int' object"):
        passing(lambda: join([[1, 2]], ["latent"]))
    monkeypatch.setattr(node_helpers, "conditioning_set_values", lambda *_, **__: node_helpers.renamed)
    with pytest.raises(AttributeError, match="renamed"):
        passing(lambda: join([[1, {}]], ["latent"]))


def test_what_this_pack_misses_itself_is_its_own_error(comfy_host):
    from klein9b.nodes.host.cache_memory import memories

    with pytest.raises(AttributeError, match="'NoneType' object"):
        passing(lambda: memories.of(None))


def passing(action):
    from klein9b.nodes.host.newer_host import needs_host

    with needs_host():
        action()


def test_text_that_cannot_be_shown_is_said_once(told, monkeypatch, caplog):
    import server

    from klein9b.nodes.host import text

    text._say_once.cache_clear()
    monkeypatch.delattr(server, "PromptServer")
    with caplog.at_level(logging.WARNING, text.__name__):
        text.show_text(None, "first")
        text.show_text(None, "second")
    assert [one.getMessage() for one in caplog.records] == [
        f"No text is shown under nodes. {told('server.PromptServer')}"
    ]


def test_the_cache_says_under_the_node_why_it_is_off(comfy_host, told, monkeypatch):
    import comfy.patcher_extension

    from klein9b.nodes import reference_cache

    shown = []
    monkeypatch.setattr(reference_cache, "show_text", lambda _, text: shown.append(text))
    monkeypatch.delattr(comfy.patcher_extension, "WrappersMP")
    model = klein_model()
    settings = {"storage": "model dtype", "memory_gib": 8.0, "keep": "between runs", "any_model": True}
    assert reference_cache.Klein9BReferenceCache.execute(model, **settings).args == (model,)
    assert shown == [f"OFF: {told('comfy.patcher_extension.WrappersMP').removesuffix('.')}"]


@pytest.mark.parametrize("moment", ["before the run", "in its first step", "when a step is done"])
def test_the_stock_path_runs_where_the_cache_finds_it_out_late(comfy_host, told, monkeypatch, moment):
    """The host has both names bound where it uses them itself."""
    import comfy.ldm.flux.model
    import comfy.quant_ops

    model, references = klein_model(), [reference(1)]
    wanted = edit(model, references)
    ours, shown = cached(model)
    owner, name = comfy.quant_ops, "QuantizedTensor"
    if moment == "before the run":
        owner, name = comfy.ldm.flux.model, "Flux"
    if moment == "when a step is done":
        last = model.model.diffusion_model.final_layer
        last.register_forward_hook(lambda *_: monkeypatch.delattr(owner, name, raising=False))
    else:
        monkeypatch.delattr(owner, name)
    assert torch.equal(edit(ours, references), wanted)
    assert shown == [f"stock path: {told(f'{owner.__name__}.{name}').removesuffix('.')}"]
