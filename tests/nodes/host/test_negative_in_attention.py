"""A negative prompt at cfg 1 against the host's NAGuidance, which evaluates the model twice for it."""

import pytest
import torch

from host.accelerating import Accelerated
from host.dense_override import negative
from host.edits import cached, edit, klein_model, normal, prompt, reference, relative

pytestmark = pytest.mark.usefixtures("comfy_host")
SAME_MATHS = 1e-5
STRENGTH = 5.0


@pytest.fixture
def model():
    return klein_model()


def refs(count=2):
    return [reference(1), reference(2, 4, 8)][:count]


def asked(strength=STRENGTH, embeds=None, **others):
    from klein9b.klein.influence import AttentionSettings, Negative

    one = negative(strength) if embeds is None else Negative(embeds, strength)
    return AttentionSettings(negative=one, **others)


def by_the_node(model, strength=STRENGTH):
    """At the node's own alpha and tau. It runs both prompts in one batch, or does nothing."""
    from comfy_extras.nodes_nag import NAGuidance

    return NAGuidance.execute(model, strength, 0.5, 1.5).args[0]


class Guiding:
    """The node's patch behind the attention itself, as the cache and accelerated blocks let no such patch in.

    Attributes:
        calls: with both prompts in one batch.
    """

    def __init__(self, model, text=512):
        (self.patch,) = by_the_node(model).model_options["transformer_options"]["patches"]["attn1_output_patch"]
        self.text = text
        self.calls = 0

    def __call__(self, func, q, k, v, heads, *args, transformer_options=None, **options):
        from comfy.ldm.modules.attention import attention_pytorch

        out = attention_pytorch(q, k, v, heads, *args, **options)
        which = transformer_options.get("cond_or_uncond")
        if which is None:
            return out  # references among themselves
        assert sorted(which) == [0, 1]
        self.calls += 1
        return self.patch(out, {"cond_or_uncond": which, "img_slice": [self.text, q.shape[2]]})


def by_the_patch(model):
    clone, guiding = model.clone(), Guiding(model)
    clone.model_options["transformer_options"]["optimized_attention_override"] = guiding
    clone.disable_model_cfg1_optimization()
    return clone, guiding


def batches(monkeypatch):
    from comfy.model_base import BaseModel

    seen, stock = [], BaseModel.apply_model

    def counting(self, x, *args, **options):
        seen.append(len(x))
        return stock(self, x, *args, **options)

    monkeypatch.setattr(BaseModel, "apply_model", counting)
    return seen


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("strength", [1.0, 2.0, STRENGTH])
def test_it_is_the_hosts_node_at_half_the_evaluations(model, count, strength, monkeypatch):
    seen = batches(monkeypatch)
    wanted = edit(by_the_node(model, strength), refs(count))
    got = edit(model, refs(count), settings=asked(strength))
    assert seen == [2, 2, 1, 1]
    assert relative(got, wanted) <= SAME_MATHS
    if strength > 1:
        assert relative(edit(model, refs(count)), wanted) > 100 * SAME_MATHS


def test_another_strength_would_be_seen(model):
    wanted = edit(by_the_node(model), refs())
    assert relative(edit(model, refs(), settings=asked(STRENGTH * 1.01)), wanted) > 5 * SAME_MATHS


BEHIND = {
    "plain": lambda model: model,
    "cache": lambda model: cached(model)[0],
    "accelerated": lambda model: Accelerated(model).model,
    "cache and accelerated": lambda model: Accelerated(cached(model)[0]).model,
}


@pytest.mark.parametrize("way", BEHIND)
@pytest.mark.parametrize("count", [0, 2])
def test_behind_the_cache_and_accelerated(model, way, count):
    guiding, patch = by_the_patch(model)
    wanted = edit(BEHIND[way](guiding), refs(count))
    assert patch.calls == 8
    assert relative(edit(BEHIND[way](model), refs(count), settings=asked()), wanted) <= SAME_MATHS
    assert relative(edit(BEHIND[way](model), refs(count)), wanted) > 100 * SAME_MATHS


@pytest.mark.parametrize("positive_tokens", [512, 600])
def test_short_and_long_prompts(model, positive_tokens):
    """The node's two prompts must be of one length; ours need not."""
    short = prompt(4, 20)
    filled = torch.nn.functional.pad(short, (0, 0, 492, 0))
    got, again = (
        edit(model, refs(1), embeds=prompt(3, positive_tokens), settings=asked(embeds=one)) for one in (short, filled)
    )
    assert torch.equal(got, again)
    if positive_tokens == 512:
        wanted = edit(by_the_node(model), refs(1), embeds=prompt(3), negative=short)
        assert relative(got, wanted) <= SAME_MATHS


def test_it_shares_positions_with_the_prompt(model):
    """The negative of the same words guides nowhere."""
    same = edit(model, refs(1), settings=asked(embeds=prompt()))
    assert relative(same, edit(model, refs(1))) <= SAME_MATHS


def test_with_strengths_and_places(model):
    """The node's patch beside the same strength in a dense attention."""
    from host.dense_override import DenseOverride
    from klein9b.klein.influence import AttentionSettings, Box, Influence

    influences = {1: Influence(3.0, Box(right=0.4)), 2: Influence(0.0)}
    node = by_the_node(model)
    node.model_options["transformer_options"]["optimized_attention_override"] = DenseOverride(
        AttentionSettings(influences), refs()
    )
    got = edit(model, refs(), settings=asked(influences=influences))
    assert relative(got, edit(node, refs())) <= SAME_MATHS


def test_a_batch_of_two_pictures(model):
    noise = normal(2, 128, 4, 7, seed=3)
    got = edit(model, refs(1), settings=asked(), noise=noise)
    assert relative(got, edit(by_the_node(model), refs(1), noise=noise)) <= SAME_MATHS


def test_the_keys_of_references_are_a_hit(model):
    ours, shown = cached(model)
    edit(ours, refs())
    for strength in (2.0, STRENGTH):
        edit(ours, refs(), settings=asked(strength))
    assert [line.split(":")[0] for line in shown] == ["miss", "hit", "hit"]


@pytest.mark.parametrize("references", [0, 2])
def test_flops_at_full_size(references, record_property):
    """At 1024x1024 with references of the same size, counted on the meta device."""
    from bench.bench_attention_settings import flops, negative

    ratio = flops(references, negative)
    record_property(f"negative prompt, FLOPs / stock, {references} references", ratio)
    assert 1.0 < ratio <= 1.15
