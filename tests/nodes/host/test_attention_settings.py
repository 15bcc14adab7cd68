"""Attention settings as one of the host's controls: what they act beside and what not."""

import logging

import pytest
import torch

from host.accelerating import Accelerated
from host.dense_override import densely
from host.edits import cached, conditioning, edit, klein_model, normal, prompt, reference, relative, with_settings

pytestmark = pytest.mark.usefixtures("comfy_host")
LOGGER = "klein9b.nodes.host.attention_parts"
SAME_MATHS = 1e-5


@pytest.fixture
def model():
    return klein_model()


def refs():
    return [reference(1), reference(2, 4, 8)]


def strength(number=1, value=3.0):
    from klein9b.klein.influence import AttentionSettings, Influence

    return AttentionSettings({number: Influence(value)})


def sampled(model, positive, negative=None, cfg=1.0, steps=2):
    import comfy.samplers
    from comfy_extras.nodes_flux import get_schedule

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, conditioning(prompt(2), refs()) if negative is None else negative)
    guider.set_cfg(cfg)
    noise = normal(1, 128, 4, 7, seed=3)
    with torch.inference_mode():
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), get_schedule(steps, 28),
            disable_pbar=True, seed=0,
        )  # fmt: skip


def control_of(conditioning):
    return conditioning[0][1]["control"]


def adding(previous=None):
    """A ControlNet that adds to the picture's activations and looks at nothing."""
    from comfy.controlnet import ControlBase

    class Adding(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            before = self.previous_controlnet
            given = before and before.get_control(x_noisy, t, cond, batched_number, transformer_options)
            add = 0.5 * normal(1, 28, 256, seed=8)
            return self.control_merge({"input": [add.clone()], "output": [add.clone(), add.clone()]}, given, None)

    return Adding().set_previous_controlnet(previous)


def with_control(conds):
    return [[embeds, beside | {"control": adding(beside.get("control"))}] for embeds, beside in conds]


BEHIND = {
    "plain": lambda model: model,
    "cache": lambda model: cached(model)[0],
    "accelerated": lambda model: Accelerated(model).model,
}


@pytest.mark.parametrize("way", BEHIND)
@pytest.mark.parametrize("first", ["ours", "ControlNet"])
def test_beside_a_controlnet_in_either_order(model, way, first):
    def both(conds):
        if first == "ours":
            return with_control(with_settings(strength(), conds)[0])
        return with_settings(strength(), with_control(conds))[0]

    got = sampled(BEHIND[way](model), both(conditioning(prompt(), refs())))
    dense, _ = densely(model, strength(), refs())
    wanted = sampled(BEHIND[way](dense), with_control(conditioning(prompt(), refs())))
    assert relative(got, wanted) <= SAME_MATHS
    alone = sampled(BEHIND[way](model), with_settings(strength(), conditioning(prompt(), refs()))[0])
    assert relative(got, alone) > 20 * SAME_MATHS
    assert relative(got, sampled(BEHIND[way](model), with_control(conditioning(prompt(), refs())))) > 20 * SAME_MATHS


def test_settings_one_behind_the_other_are_joined(model):
    conds = conditioning(prompt(), refs())
    (one_by_one,) = with_settings(strength(2, 0.25), *with_settings(strength(1, 9.0), conds))
    (one_by_one,) = with_settings(strength(1, 3.0), one_by_one)
    from klein9b.klein.influence import AttentionSettings
    from klein9b.nodes.host.attention_settings import settings_on

    both = AttentionSettings({**strength(1, 3.0).influences, **strength(2, 0.25).influences})
    assert torch.equal(sampled(model, one_by_one), sampled(model, with_settings(both, conds)[0]))
    assert [next(iter(one.influences.values())).strength for one in settings_on(one_by_one)] == [9.0, 0.25, 3.0]
    assert settings_on(conds) == [] and "control" not in conds[0][1], "what was given is as it was"


def test_a_controlnet_between_two_settings(model):
    conds = conditioning(prompt(), refs())
    (chain,) = with_settings(strength(2, 0.25), with_control(with_settings(strength(), conds)[0]))
    from klein9b.klein.influence import AttentionSettings

    both = AttentionSettings({**strength().influences, **strength(2, 0.25).influences})
    dense, _ = densely(model, both, refs())
    assert relative(sampled(model, chain), sampled(dense, with_control(conds))) <= SAME_MATHS


def test_positive_and_negative_share_one_control_if_they_did():
    conds = conditioning(prompt(), refs()), conditioning(prompt(2), refs())
    positive, negative = with_settings(strength(), *conds)
    assert control_of(positive) is control_of(negative)
    positive, negative = with_settings(strength(2), positive, negative)
    assert control_of(positive) is control_of(negative)
    positive, negative = with_settings(strength(), with_control(conds[0]), conds[1])
    assert control_of(positive) is not control_of(negative)


def test_an_older_controlnet_on_the_positive_still_acts_on_the_negative(model):
    """The host's first node for it marks the positive alone."""
    positive, negative = conditioning(prompt(), refs()), conditioning(prompt(2), refs())
    ((embeds, beside),) = with_control(positive)
    marked = [[embeds, beside | {"control_apply_to_uncond": True}]]
    got = sampled(model, *with_settings(strength(), marked, negative), cfg=4.0)
    dense, _ = densely(model, strength(), refs())
    assert relative(got, sampled(dense, marked, negative, cfg=4.0)) <= SAME_MATHS


def test_the_hosts_own_chain_of_references_before_and_behind(model):
    from comfy_extras.nodes_edit_model import ReferenceLatent

    def chained(conds, *latents):
        for latent in latents:
            conds = ReferenceLatent.execute(conds, {"samples": latent}).args[0]
        return conds

    first, second = refs()
    plain = conditioning(prompt(), [])
    behind = with_settings(strength(2), chained(plain, first, second))[0]
    before = chained(with_settings(strength(2), plain)[0], first, second)
    between = chained(with_settings(strength(2), chained(plain, first))[0], second)
    wanted = edit(densely(model, strength(2), refs())[0], refs())
    for conds in (behind, before, between):
        assert relative(sampled(model, conds), wanted) <= SAME_MATHS


def test_nodes_of_the_host_keep_them(model):
    import nodes

    from klein9b.nodes.host.attention_settings import settings_on

    (conds,) = with_settings(strength(), conditioning(prompt(), refs()))
    (zeroed,) = nodes.ConditioningZeroOut().zero_out(conds)
    (combined,) = nodes.ConditioningCombine().combine(conds, conditioning(prompt(2), refs()))
    assert settings_on(zeroed) == settings_on(combined) == settings_on(conds)
    dense, _ = densely(model, strength(), refs())
    assert relative(sampled(model, zeroed), sampled(dense, conditioning(prompt() * 0, refs()))) <= SAME_MATHS
    one, other = sampled(dense, conditioning(prompt(), refs()), steps=1), sampled(model, combined, steps=1)
    plain = sampled(model, conditioning(prompt(2), refs()), steps=1)
    assert relative(other, (one + plain) / 2) <= SAME_MATHS


@pytest.mark.parametrize("way", BEHIND)
def test_a_compiled_model_says_what_to_do(model, way):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    compiled = TorchCompileModel.execute(BEHIND[way](model), "eager").args[0]
    with pytest.raises(ValueError, match="The model is compiled.*Take out the node that compiles"):
        edit(compiled, refs(), settings=strength())
    edit(model, refs(), settings=strength())


@pytest.mark.parametrize("way", BEHIND)
def test_an_attention_mask_says_what_to_do(model, way):
    mask = torch.ones(1, 540, 540)
    extra = {"attention_mask": mask, "attention_mask_img_shape": (4, 7)}
    edit(BEHIND[way](model), extra=extra)
    with pytest.raises(ValueError, match="The conditioning carries an attention mask"):
        edit(BEHIND[way](model), refs(), settings=strength(), extra=extra)


def ignoring(args, extra):
    """A block of another pack, that computes its attention by itself."""
    options = args["transformer_options"]
    return extra["original_block"](
        args | {"transformer_options": {k: v for k, v in options.items() if k != "optimized_attention_override"}}
    )


@pytest.mark.parametrize("way", ["plain", "accelerated"])
def test_a_block_that_passes_them_by_is_said_once_a_run(model, caplog, way):
    patched = model.clone()
    patched.set_model_patch_replace(ignoring, "dit", "double_block", 1)
    ours = BEHIND[way](patched)
    with caplog.at_level(logging.WARNING, LOGGER):
        edit(ours, refs(), settings=strength(), steps=3)
        edit(ours, refs(), settings=strength())
        edit(BEHIND[way](model), refs(), settings=strength())
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(lines) == 2 and lines[0].startswith("Klein 9B: 1 of 4 blocks computed their attention without")


def test_a_node_that_adds_tokens_says_what_to_do(model):
    def longer(args):
        return args | {name: torch.cat((args[name], args[name][:, :3]), dim=1) for name in ("img", "img_ids")}

    from klein9b.klein.influence import AttentionSettings, Influence

    patched = model.clone()
    patched.set_model_patch(longer, "post_input")
    some = torch.ones(6, 5, dtype=torch.bool)
    some[0] = False
    for asked in (strength(), AttentionSettings({1: Influence(kept=some)})):
        with pytest.raises(ValueError, match="another node adds or removes tokens"):
            edit(patched, refs(), settings=asked)


def test_a_mask_over_another_reference_says_what_to_do(model):
    from klein9b.klein.influence import AttentionSettings, Influence

    asked = AttentionSettings({2: Influence(kept=torch.ones(6, 5, dtype=torch.bool))})
    with pytest.raises(ValueError, match=r"The mask over image 2 is for \[6, 5\] tokens, but the image has \[4, 8\]"):
        edit(model, refs(), settings=asked)


@pytest.mark.parametrize("number", [3, 9])
def test_a_reference_that_is_not_connected_changes_nothing(model, number):
    assert torch.equal(edit(model, refs(), settings=strength(number)), edit(model, refs()))
    assert torch.equal(edit(model, settings=strength(number)), edit(model))


def test_another_attention_is_kept_where_nothing_is_weighed(model):
    """The one that a node chose, for the queries that see every key alike."""
    from comfy.ldm.modules.attention import attention_pytorch

    asked = []

    def chosen(func, q, k, v, heads, *args, **options):
        asked.append(q.shape[2])
        return attention_pytorch(q, k, v, heads, *args, **options)

    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = chosen
    got = edit(clone, refs(), settings=strength(), steps=1)
    assert asked == [62] * 4, "the references' own queries"
    assert relative(got, edit(model, refs(), settings=strength(), steps=1)) <= SAME_MATHS
    asked.clear()
    edit(clone, refs(), settings=strength(value=1.0), steps=1)
    assert asked == [602] * 4


def test_hooks_on_the_same_conditioning(model):
    import comfy.hooks

    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    change = 0.02 * normal(*model.model.state_dict()[key].shape, seed=6)

    def hooked():
        hook = comfy.hooks.WeightHook(1.0, 0.0)
        hook.weights, hook.need_weight_init = {key: ("diff", (change,))}, False
        hooks = comfy.hooks.HookGroup()
        hooks.add(hook)
        return {"hooks": hooks}

    got = edit(model, refs(), settings=strength(), extra=hooked())
    dense, _ = densely(model, strength(), refs())
    assert relative(got, edit(dense, refs(), extra=hooked())) <= SAME_MATHS
    assert relative(got, edit(model, refs(), settings=strength())) > 20 * SAME_MATHS


def test_the_model_is_untouched(model):
    before, options = edit(model, refs()), repr(model.model_options)
    edit(model, refs(), settings=strength())
    assert repr(model.model_options) == options and not model.wrappers
    assert torch.equal(edit(model, refs()), before)


def test_a_conditioning_holds_no_model_alive(model):
    import weakref

    (conds,) = with_settings(strength(), conditioning(prompt(), refs()))
    other = klein_model()
    sampled(other, conds)
    gone = weakref.ref(other.model)
    import comfy.model_management

    comfy.model_management.unload_all_models()
    del other
    import gc

    gc.collect()
    assert gone() is None


def test_copies_for_other_cards(model):
    (conds,) = with_settings(strength(), conditioning(prompt(), refs()))
    control, device = control_of(conds), torch.device("meta")
    clone = control.deepclone_multigpu(device, autoregister=True)
    assert control.get_instance_for_device(device) is clone is not control
    assert clone.settings is control.settings and clone.get_models() == []
    assert control.deepclone_multigpu(torch.device("cpu")) is not control
    assert torch.device("cpu") not in control.multigpu_clones
    before, again = sampled(model, conds), sampled(model, [[prompt(), conds[0][1] | {"control": clone}]])
    assert torch.equal(before, again)
