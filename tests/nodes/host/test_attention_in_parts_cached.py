"""Attention settings beside Klein 9B Reference Cache: what is a hit, what is another key, what changes within a run."""

import pytest
import torch

from host.accelerating import Accelerated
from host.dense_override import densely, other_tokens
from host.edits import cached, conditioning, edit, klein_model, normal, prompt, reference, relative, with_settings

pytestmark = pytest.mark.usefixtures("comfy_host")
SAME_MATHS = 1e-5
STEPS = 4


@pytest.fixture
def model():
    return klein_model()


def refs():
    return [reference(1), reference(2, 4, 8)]


def corner(height=6, width=5, size=2):
    tokens = torch.ones(height, width, dtype=torch.bool)
    tokens[:size, :size] = False
    return tokens


def influences(**of):
    """By the name of the reference, r1 and on."""
    from klein9b.klein.influence import AttentionSettings, Influence

    return AttentionSettings({int(name[1:]): Influence(**given) for name, given in of.items()})


def found(shown):
    return [line.split(":")[0] for line in shown]


def box(**edges):
    from klein9b.klein.influence import Box

    return Box(**edges)


def test_strengths_and_places_are_hits(model):
    ours, shown = cached(model)
    edit(ours, refs())
    for given in ({"strength": 3.0}, {"strength": 0.2, "where": box(right=0.5)}, {"kept": corner(size=0)}):
        edit(ours, refs(), settings=influences(r1=given))
    assert found(shown) == ["miss", "hit", "hit", "hit"]


def test_taken_out_tokens_are_another_key(model):
    ours, shown = cached(model)
    edit(ours, refs())
    first, again, other = (
        edit(ours, refs(), settings=influences(r1={"kept": kept})) for kept in (corner(), corner(), corner().flip(0))
    )
    assert found(shown) == ["miss", "miss", "hit", "miss"]
    assert torch.equal(first, again) and not torch.equal(first, other)
    edit(ours, refs(), settings=influences(r1={"kept": corner(), "strength": 2.0}))
    assert found(shown)[-1] == "hit"


def test_other_numbers_in_taken_out_tokens_are_a_hit(model):
    """The key is of what is read."""
    ours, shown = cached(model)
    asked = influences(r1={"kept": corner()})
    first = edit(ours, refs(), settings=asked)
    again = edit(ours, [other_tokens(refs()[0], corner()), refs()[1]], settings=asked)
    assert found(shown) == ["miss", "hit"] and torch.equal(first, again)


def test_casts_are_another_key_as_references_of_two_do_not_see_each_other(model):
    from klein9b.klein.influence import AttentionSettings, Cast

    def halves(left, right):
        return AttentionSettings(
            casts=(
                Cast(((5, 60),), 512, frozenset({1}), box(right=left)),
                Cast(((70, 90),), 512, frozenset({2}), box(left=right)),
            )
        )

    ours, shown = cached(model)
    edit(ours, refs())
    for asked in (halves(0.5, 0.5), halves(0.5, 0.5), halves(0.25, 0.5)):
        edit(ours, refs(), settings=asked)
    assert found(shown) == ["miss", "miss", "hit", "hit"]


def test_every_reference_at_0(model):
    ours, shown = cached(model)
    out = influences(r1={"strength": 0.0}, r2={"strength": 0.0})
    assert torch.equal(edit(ours, refs(), settings=out), edit(model, refs(), settings=out))
    assert torch.equal(edit(ours, refs(), settings=out), edit(model))
    edit(ours, refs())
    assert found(shown)[-1] == "miss"


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_fewer_bits(model, name):
    """The same stored numbers, and the dense attention."""
    from klein9b.klein.kv_store import Storage

    asked = influences(r1={"strength": 3.0, "kept": corner()}, r2={"strength": 0.5, "where": box(bottom=0.5)})
    ours, shown = cached(model, storage=Storage(name))
    got = edit(ours, refs(), settings=asked)
    assert torch.equal(got, edit(ours, refs(), settings=asked)) and found(shown) == ["miss", "hit"]
    dense, _ = densely(model, influences(r1={"strength": 3.0}, r2=vars(asked.influences[2])), refs())
    whole = edit(cached(model, storage=Storage(name))[0], refs(), settings=influences(
        r1={"strength": 3.0}, r2={"strength": 0.5, "where": box(bottom=0.5)}
    ))  # fmt: skip
    assert relative(whole, edit(cached(dense, storage=Storage(name))[0], refs())) <= SAME_MATHS
    assert relative(got, whole) > 20 * SAME_MATHS


BEHIND = {
    "plain": lambda model: model,
    "cache": lambda model: cached(model)[0],
    "accelerated": lambda model: Accelerated(model).model,
    "cache and accelerated": lambda model: Accelerated(cached(model)[0]).model,
    "cache in int8": lambda model: cached_in_int8(model),
}


def cached_in_int8(model):
    from klein9b.klein.kv_store import Storage

    return cached(model, storage=Storage.INT8)[0]


def in_two_runs(model, settings, place):
    """The steps up to `place` with the first settings, the others with the second; as SplitSigmas lets one run it."""
    import comfy.samplers
    from comfy_extras.nodes_flux import get_schedule

    sigmas, noise = get_schedule(STEPS, 28), normal(1, 128, 4, 7, seed=3)
    x, latent = noise, torch.zeros_like(noise)
    for part, asked in zip((sigmas[: place + 1], sigmas[place:]), settings):
        guider = comfy.samplers.CFGGuider(model)
        conds = conditioning(prompt(), refs()), conditioning(prompt(2), refs())
        guider.set_conds(*(conds if asked is None else with_settings(asked, *conds)))
        guider.set_cfg(1.0)
        with torch.inference_mode():
            latent = guider.sample(x, latent, comfy.samplers.sampler_object("euler"), part, disable_pbar=True, seed=0)
        x = torch.zeros_like(noise)
    return latent


def fraction_between(model, place):
    """Of the schedule, between two of its steps."""
    from comfy_extras.nodes_flux import get_schedule

    sigmas = get_schedule(STEPS, 28)
    wanted = float(sigmas[place - 1] + sigmas[place]) / 2
    sampling = model.get_model_object("model_sampling")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sampling.percent_to_sigma(middle) > wanted else (low, middle)
    return low


@pytest.mark.parametrize("way", BEHIND)
@pytest.mark.parametrize("first", [True, False], ids=["leaves", "comes"])
def test_a_reference_in_part_of_the_schedule(model, way, first):
    from klein9b.klein.influence import ReferenceInterval

    cut = fraction_between(model, 2)
    interval = ReferenceInterval(end=cut) if first else ReferenceInterval(start=cut)
    asked = influences(r1={"strength": 2.0}, r2={"interval": interval})
    got = edit(BEHIND[way](model), refs(), settings=asked, steps=STEPS)
    there = influences(r1={"strength": 2.0})
    gone = influences(r1={"strength": 2.0}, r2={"strength": 0.0})
    wanted = in_two_runs(BEHIND[way](klein_model()), (there, gone) if first else (gone, there), 2)
    assert relative(got, wanted) <= SAME_MATHS
    for whole in (there, gone):
        other = edit(BEHIND[way](model), refs(), settings=whole, steps=STEPS)
        assert relative(other, wanted) > 20 * SAME_MATHS


def test_two_sets_of_keys_serve_such_a_run_and_the_next(model):
    from klein9b.klein.influence import ReferenceInterval

    asked = influences(r2={"interval": ReferenceInterval(end=fraction_between(model, 2))})
    ours, shown = cached(model)
    first, again = (edit(ours, refs(), settings=asked, steps=STEPS) for _ in range(2))
    assert torch.equal(first, again)
    assert found(shown) == ["miss", "hit"]


def test_other_tokens_taken_out_for_the_negative(model):
    """As many of them: nothing but the tokens themselves tells the two sets apart."""
    import comfy.samplers
    from comfy_extras.nodes_flux import get_schedule

    def run(ours, one, other):
        guider = comfy.samplers.CFGGuider(ours)
        (positive,) = with_settings(influences(r1={"kept": one}), conditioning(prompt(), refs()))
        (negative,) = with_settings(influences(r1={"kept": other}), conditioning(prompt(2), refs()))
        guider.set_conds(positive, negative)
        guider.set_cfg(3.0)
        noise = normal(1, 128, 4, 7, seed=3)
        with torch.inference_mode():
            return guider.sample(
                noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), get_schedule(1, 28),
                disable_pbar=True, seed=0,
            )  # fmt: skip

    ours, _ = cached(model)
    both = run(ours, corner(), corner().flip(0))
    positive = edit(ours, refs(), settings=influences(r1={"kept": corner()}), steps=1)
    negative = edit(ours, refs(), settings=influences(r1={"kept": corner().flip(0)}), embeds=prompt(2), steps=1)
    assert relative(both, negative + 3.0 * (positive - negative)) <= SAME_MATHS
    assert relative(both, run(ours, corner(), corner())) > 20 * SAME_MATHS
