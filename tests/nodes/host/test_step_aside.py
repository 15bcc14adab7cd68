"""Where the reference cache steps aside: the stock picture, one line why, and no error."""

import logging

import pytest
import torch

from host.edits import cached, edit, klein_model, normal, reference, store_of

LOGGER = "klein9b.nodes.host.step_aside"


@pytest.fixture
def model(comfy_host):
    return klein_model()


def refs():
    return [reference(1), reference(2, 4, 8)]


def steps_aside(model, ours, shown, caplog, why, **variation):
    """The stock picture of the same model but for the cache, and one warning."""
    with caplog.at_level(logging.WARNING, LOGGER):
        got = edit(ours, refs(), **variation)
    lines = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    assert len(lines) == 1 and why in lines[0], lines
    assert shown[-1].startswith("stock path: ") and why in shown[-1]
    assert torch.equal(got, edit(model, refs(), **variation))


@pytest.mark.parametrize("method", ["offset", "uxo", "index_timestep_zero"])
def test_another_reference_method(model, caplog, method):
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, method, extra={"reference_latents_method": method})


def rotating(q, k, v, **_):
    return {"q": q * 0.9, "k": k, "v": v}


@pytest.mark.parametrize("name", ["attn1_patch", "attn1_output_patch", "post_input"])
def test_patches_that_expect_reference_tokens(model, caplog, name):
    def patch(*args, **kwargs):
        return {"attn1_patch": rotating, "attn1_output_patch": lambda attn, _: attn * 0.9}.get(name, lambda a: a)(
            *args, **kwargs
        )

    patched = model.clone()
    patched.set_model_patch(patch, name)
    ours, shown = cached(patched)
    steps_aside(patched, ours, shown, caplog, name)


def test_a_replacement_that_does_not_attend_to_the_references(model, caplog):
    def without_patches(args, extra):
        options = {k: v for k, v in args["transformer_options"].items() if k != "patches"}
        return extra["original_block"](args | {"transformer_options": options})

    patched = model.clone()
    patched.set_model_patch_replace(without_patches, "dit", "single_block", 0)
    ours, shown = cached(patched)
    steps_aside(patched, ours, shown, caplog, "another node replaces single block 0, which does not attend")


def test_the_stock_cache_on_the_same_model(model, caplog):
    from comfy_extras.nodes_flux import FluxKVCache

    (stock,) = FluxKVCache.execute(model).args
    ours, shown = cached(stock)
    with caplog.at_level(logging.WARNING, LOGGER):
        got = edit(ours, refs())
    assert "index_timestep_zero" in shown[-1]
    assert torch.equal(got, edit(FluxKVCache.execute(model).args[0], refs()))


def test_hooks(model, caplog):
    import comfy.hooks

    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    shape = model.model.state_dict()[key].shape
    hooks = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(1.0, 0.0)
    hook.weights = {key: ("diff", (0.02 * normal(*shape, seed=6),))}
    hook.need_weight_init = False
    hooks.add(hook)
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, "hooks", extra={"hooks": hooks})


def test_training(model, caplog, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "in_training", True)
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, "trained")


def test_unknown_blocks(model, caplog):
    from comfy.ldm.flux.layers import SingleStreamBlock

    class Other(SingleStreamBlock):
        pass

    model.model.diffusion_model.single_blocks[0].__class__ = Other
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, "blocks")


@pytest.mark.parametrize("name", ["img_attn.norm.key_norm", "img_norm2", "img_mlp", "img_mlp.1"])
def test_something_hung_onto_a_norm_or_an_activation(model, caplog, name):
    part = model.model.diffusion_model.double_blocks[1].get_submodule(name)
    part.register_forward_hook(lambda _, __, out: out * 0.5)
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, "hung onto the norms or activations")


def test_a_block_that_never_asks_for_the_references(model, caplog):
    """Its forward was replaced by one that knows no attention patches: seen after the fact, and computed again."""
    block = model.model.diffusion_model.single_blocks[0]
    stock = block.forward

    def forward(*args, transformer_options, **kwargs):
        options = {k: v for k, v in transformer_options.items() if k != "patches"}
        return stock(*args, transformer_options=options, **kwargs)

    block.forward = forward
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, "1 of 4 blocks")


def test_blocks_replaced_while_sampling(model, caplog):
    """Seen only after the cache has served a step: the run starts over, so that no step of it is the cache's."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    def skipping(m):
        return SkipLayerGuidanceDiT.execute(m, 3.0, 0.0, 0.9, "0", "0", 0.0).args[0]

    ours, shown = cached(model)
    steps_aside(
        skipping(model), skipping(ours), shown, caplog, "replaces double block 0", cfg=2.0, sampler="euler_ancestral"
    )


@pytest.mark.parametrize("first", ["reference cache", "easy cache"])
def test_steps_that_another_cache_answers_are_not_missed_references(model, caplog, first):
    from comfy_extras.nodes_easycache import EasyCacheNode

    def skipping(m):
        return EasyCacheNode.execute(m, 5.0, 0.0, 1.0, False).args[0]

    ours, shown = cached(skipping(model)) if first == "easy cache" else cached(model)
    forwards = []
    model.model.diffusion_model.final_layer.register_forward_hook(lambda *_: forwards.append(1))
    got = edit(ours if first == "easy cache" else skipping(ours), refs(), steps=6)
    assert len(forwards) < 6, "the other cache skipped nothing"
    assert shown[-1].startswith("miss") and not caplog.records
    # Its first two steps are never skipped, so they hold what the references did.
    assert not torch.equal(got, edit(skipping(model), refs(), steps=6))


def test_too_little_memory_even_in_ram(model, caplog, monkeypatch):
    from klein9b.klein.kv_store import ReferenceStore

    def out_of_memory(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(ReferenceStore, "add", out_of_memory)
    ours, shown = cached(model)
    steps_aside(model, ours, shown, caplog, "not enough memory")


def test_an_error_that_is_not_about_memory_is_not_swallowed(model, monkeypatch):
    from klein9b.klein.kv_store import ReferenceStore

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(ReferenceStore, "add", broken)
    ours, _ = cached(model)
    with pytest.raises(RuntimeError, match="broken"):
        edit(ours, refs())


def test_without_references_nothing_changes(model, caplog):
    ours, shown = cached(model)
    assert torch.equal(edit(ours), edit(model))
    assert shown == ["no references in this run"] and not caplog.records


def test_an_interrupted_run_keeps_nothing_half_done(model, monkeypatch):
    ours, shown = cached(model)
    calls = []
    block = model.model.diffusion_model.single_blocks[0].linear1

    def stop(*_):
        calls.append(1)
        raise InterruptedError

    handle = block.register_forward_pre_hook(stop)
    with pytest.raises(InterruptedError):
        edit(ours, refs())
    handle.remove()
    assert calls == [1] and not store_of(ours).held()
    assert shown == [], "there were references, but they were not reached"
    edit(ours, refs())
    assert shown[-1].startswith("miss")
