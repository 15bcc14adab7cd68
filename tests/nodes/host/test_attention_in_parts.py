"""Strengths, places, taken-out tokens and casts in the real host, against a dense matrix of weights there."""

import pytest
import torch

from host.accelerating import Accelerated
from host.dense_override import densely, other_tokens
from host.edits import cached, edit, klein_model, normal, reference, relative
from host.quantising_ops import fp8_ops, int8_ops

pytestmark = pytest.mark.usefixtures("comfy_host")
# Two orders of the same float32 sums, the dense one in float64; 5e-7 was seen.
SAME_MATHS = 1e-5


@pytest.fixture
def model():
    return klein_model()


def refs():
    return [reference(1), reference(2, 4, 8), reference(3, 5, 5)]


def kept(height=6, width=5):
    """All but a corner of a reference."""
    tokens = torch.ones(height, width, dtype=torch.bool)
    tokens[1:4, 1:3] = False
    return tokens


def settings(name):
    from klein9b.klein.influence import AttentionSettings, Box, Cast, Influence, Mask

    soft = torch.zeros(8, 14)
    soft[2:6, 3:10] = 1.0
    left = Cast(((100, 200),), 400, frozenset({1}), Box(right=0.5))
    right = Cast(((250, 300),), 400, frozenset({2}), Box(left=0.25))
    return {
        "weaker": lambda: AttentionSettings({2: Influence(0.3)}),
        "stronger": lambda: AttentionSettings({1: Influence(4.0), 3: Influence(2.0)}),
        "out": lambda: AttentionSettings({2: Influence(0.0)}),
        "all out": lambda: AttentionSettings({n: Influence(0.0) for n in (1, 2, 3)}),
        "place": lambda: AttentionSettings({1: Influence(2.0, Box(right=0.4))}),
        "painted place": lambda: AttentionSettings({2: Influence(1.0, Mask(soft))}),
        "tokens": lambda: AttentionSettings({1: Influence(kept=kept())}),
        "tokens and strength": lambda: AttentionSettings({1: Influence(3.0, Box(bottom=0.5), kept())}),
        "casts": lambda: AttentionSettings(casts=(left, right)),
        "everything": lambda: AttentionSettings(
            {1: Influence(2.0, kept=kept()), 3: Influence(0.5, Mask(soft))}, (left, right)
        ),
    }[name]()


NAMES = [
    "weaker", "stronger", "out", "all out", "place", "painted place", "tokens", "tokens and strength", "casts",
    "everything",
]  # fmt: skip


def accelerated(model):
    return Accelerated(model).model


def with_lora(model):
    clone = model.clone()
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    shape = model.model.state_dict()[key].shape
    clone.add_patches({key: ("diff", (normal(*shape, seed=5) * 0.02,))}, 0.7)
    return clone


# How a model is made, what comes behind it, and what a run is given.
WAYS = {
    "plain": ({}, lambda model: model, {}),
    "base": ({}, lambda model: model, {"cfg": 4.0}),
    "cache": ({}, lambda model: cached(model)[0], {}),
    "base and cache": ({}, lambda model: cached(model)[0], {"cfg": 4.0}),
    "accelerated": ({}, accelerated, {}),
    "cache and accelerated": ({}, lambda model: accelerated(cached(model)[0]), {"cfg": 4.0}),
    "accelerated and cache": ({}, lambda model: cached(accelerated(model))[0], {}),
    "LoRA": ({}, with_lora, {}),
    "LoRA and cache": ({}, lambda model: with_lora(cached(model)[0]), {}),
}


CASES = [
    *[("plain", name) for name in NAMES],
    *[(way, name) for way in WAYS if way != "plain" for name in ("everything", "all out")],
    *[(way, name) for way in ("base and cache", "cache and accelerated") for name in ("stronger", "out", "casts")],
    ("cache", "place"),
]


@pytest.mark.parametrize(("way", "name"), CASES)
def test_it_is_the_dense_one(way, name):
    made, behind, given = WAYS[way]
    model, asked = klein_model(**made), settings(name)
    got = edit(behind(model), refs(), settings=asked, **given)
    dense, override = densely(model, asked, refs())
    wanted = edit(behind(dense), refs(), **given)
    assert override.shapes and relative(got, wanted) <= SAME_MATHS
    assert relative(edit(behind(model), refs(), **given), wanted) > 20 * SAME_MATHS


@pytest.mark.parametrize("way", WAYS)
def test_a_strength_of_1_is_stock_bit_for_bit(way):
    from klein9b.klein.influence import AttentionSettings, Box, Cast, Influence

    made, behind, given = WAYS[way]
    model = behind(klein_model(**made))
    whole = (Cast(((3, 90),), 512, frozenset({2}), Box()),)
    asked = AttentionSettings({1: Influence(1.0), 2: Influence(1.0, Box(), torch.ones(4, 8, dtype=torch.bool))}, whole)
    assert torch.equal(edit(model, refs(), settings=asked, **given), edit(model, refs(), **given))


@pytest.mark.parametrize("way", WAYS)
def test_tokens_that_are_out_have_no_influence(way):
    made, behind, given = WAYS[way]
    model, asked = behind(klein_model(**made)), settings("tokens")
    first, *others = refs()
    changed = [other_tokens(first, kept()), *others]
    got, again = (edit(model, each, settings=asked, **given) for each in (refs(), changed))
    assert torch.equal(got, again)
    assert relative(edit(model, changed, **given), edit(model, refs(), **given)) > 20 * SAME_MATHS


@pytest.mark.parametrize("way", WAYS)
def test_a_reference_at_0_may_be_any_other(way):
    made, behind, given = WAYS[way]
    model, asked = behind(klein_model(**made)), settings("out")
    first, _, third = refs()
    got, again = (edit(model, [first, one, third], settings=asked, **given) for one in (refs()[1], reference(9, 7, 3)))
    assert torch.equal(got, again)
    assert relative(got, edit(model, [first, third], **given)) > 20 * SAME_MATHS, "the third keeps its number"


@pytest.mark.parametrize("way", ["plain", "cache", "accelerated"])
def test_the_last_reference_at_0_is_a_run_without_it(way):
    from klein9b.klein.influence import AttentionSettings, Influence

    made, behind, given = WAYS[way]
    model = behind(klein_model(**made))
    got = edit(model, refs(), settings=AttentionSettings({3: Influence(0.0)}), **given)
    assert torch.equal(got, edit(model, refs()[:2], **given))


def jittering(override):
    """The same but for the last bit."""

    def attend(*args, **options):
        out = override(*args, **options)
        return out * (1 + 1e-7 * normal(*out.shape, seed=8))

    return attend


@pytest.mark.parametrize("format", ["int8_tensorwise", "float8_e4m3fn"])
@pytest.mark.parametrize("way", ["plain", "cache", "accelerated"])
def test_quantised_weights(format, way):
    """Where activations are rounded to 8 bits, a last bit may become a level, in the dense run as well."""
    ops = {"int8_tensorwise": {"int8": int8_ops()}, "float8_e4m3fn": {"fp8": fp8_ops()}}[format]
    behind = {
        "plain": lambda m: m,
        "cache": lambda m: cached(m)[0],
        "accelerated": lambda m: Accelerated(m, **ops).model,
    }
    model, asked = klein_model(quantised_as=format), settings("everything")
    got = edit(behind[way](model), refs(), settings=asked)
    dense, override = densely(model, asked, refs())
    wanted = edit(behind[way](dense), refs())
    dense.model_options["transformer_options"]["optimized_attention_override"] = jittering(override)
    a_last_bit = relative(edit(behind[way](dense), refs()), wanted)
    assert relative(got, wanted) <= max(SAME_MATHS, 1.5 * a_last_bit)
    assert relative(edit(behind[way](model), refs()), wanted) > 3 * max(SAME_MATHS, a_last_bit)


def test_a_batch_of_two_pictures(model):
    asked = settings("everything")
    noise = normal(2, 128, 4, 7, seed=3)
    got = edit(model, refs(), settings=asked, noise=noise, cfg=3.0)
    dense, _ = densely(model, asked, refs())
    assert relative(got, edit(dense, refs(), noise=noise, cfg=3.0)) <= SAME_MATHS


@pytest.mark.parametrize("behind", [lambda m: m, lambda m: cached(m)[0]], ids=["plain", "cache"])
def test_res_2s(model, behind):
    import comfy.samplers

    from klein9b.klein.samplers import sample_res_2s

    asked, sampler = settings("everything"), comfy.samplers.KSAMPLER(sample_res_2s)
    got = edit(behind(model), refs(), settings=asked, sampler=sampler)
    dense, _ = densely(model, asked, refs())
    assert relative(got, edit(behind(dense), refs(), sampler=sampler)) <= SAME_MATHS


def test_guidance_stays_one_evaluation_a_step(model, monkeypatch):
    """Positive and negative share what acts on them, or the host would not put both in one batch."""
    from comfy.model_base import BaseModel

    batches = []
    stock = BaseModel.apply_model

    def counting(self, x, *args, **options):
        batches.append(len(x))
        return stock(self, x, *args, **options)

    monkeypatch.setattr(BaseModel, "apply_model", counting)
    edit(model, refs(), settings=settings("everything"), cfg=4.0, steps=3)
    assert batches == [2, 2, 2]


def test_attention_rises_with_strength(model):
    """What the picture takes of reference 2 in each block: the share of its keys in the softmax."""
    from klein9b.klein.influence import AttentionSettings, Influence

    def taken(strength):
        """By values that are 1 in the reference and 0 elsewhere, in the first block."""
        shares = []
        first = model.model.diffusion_model.double_blocks[0]
        stock = first.forward

        def forward(*args, transformer_options, **options):
            parts = transformer_options["optimized_attention_override"]

            def marking(func, q, k, v, heads, **given):
                marked = torch.zeros_like(v)
                marked[:, :, 570:602] = 1
                shares.append(float(parts(func, q, k, marked, heads, **given)[:, 512:540].mean()))
                return parts(func, q, k, v, heads, **given)

            ours = transformer_options | {"optimized_attention_override": marking}
            return stock(*args, transformer_options=ours, **options)

        first.forward = forward
        try:
            edit(model, refs(), settings=AttentionSettings({2: Influence(strength)}), steps=1)
        finally:
            del first.forward
        return shares[0]

    shares = [taken(strength) for strength in (0.01, 0.25, 1.0, 4.0, 100.0)]
    assert shares == sorted(shares) and shares[0] < 0.01 and shares[-1] > 0.5
    odds = [share / (1 - share) for share in shares]
    assert odds[3] / odds[2] > 2 and odds[2] / odds[1] > 2


@pytest.mark.parametrize("method", ["index_timestep_zero", "offset", "uxo"])
def test_other_ways_to_place_references(model, method):
    asked = settings("everything")
    extra = {"reference_latents_method": method}
    dense, _ = densely(model, asked, refs())
    got = edit(model, refs(), settings=asked, extra=extra)
    assert relative(got, edit(dense, refs(), extra=extra)) <= SAME_MATHS
    assert relative(got, edit(model, refs(), settings=asked)) > 20 * SAME_MATHS
