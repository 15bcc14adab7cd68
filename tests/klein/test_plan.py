"""What fits which card: the official files on 8 to 24 GB, and what holds of every plan."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import MEGAPIXEL, official, plan

from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.plan import GIB, Card, cheapest_change, make_plan, named_card
from klein9b.klein.planned_files import smaller_files
from klein9b.klein.vram import Job, activation_bytes, cache_bytes, host_estimate

NVFP4, FP8, BF16 = "flux-2-klein-9b-nvfp4", "flux-2-klein-9b-fp8", "flux-2-klein-9b"
KV_FP8, KV = "flux-2-klein-9b-kv-fp8", "flux-2-klein-9b-kv"

# GiB that stream in a step at 1024x1024 with 0, 1, 2 and 4 references of a megapixel.
STREAMED = {
    (NVFP4, None, 8): (0, 0, 0.6, 1.7),
    (NVFP4, None, 12): (0, 0, 0, 0),
    (FP8, None, 8): (3.1, 3.6, 4.1, 5.2),
    (FP8, None, 12): (0, 0, 0, 1.2),
    (FP8, None, 16): (0, 0, 0, 0),
    (BF16, None, 8): (11.2, 11.7, 12.2, 13.3),
    (BF16, None, 12): (7.2, 7.7, 8.2, 9.3),
    (BF16, None, 16): (3.2, 3.7, 4.2, 5.3),
    (BF16, None, 24): (0, 0, 0, 0),
    (KV_FP8, Storage.MODEL, 12): (0, 1.5, 4.1, 9.8),
    (KV_FP8, Storage.MODEL, 16): (0, 0, 0, 5.3),
    (KV_FP8, Storage.MODEL, 24): (0, 0, 0, 0),
    (KV_FP8, Storage.INT8, 12): (0, 0.6, 2.3, 5.7),
    (KV_FP8, Storage.INT8, 16): (0, 0, 0, 1.7),
    (KV_FP8, Storage.INT4, 12): (0, 0, 1.5, 4.1),
    (KV_FP8, Storage.INT4, 16): (0, 0, 0, 0),
    (KV, Storage.MODEL, 24): (0, 0, 0, 5.1),
    (KV, Storage.INT4, 24): (0, 0, 0, 0),
}


def named(parts, name):
    return dict(parts)[name]


def best(asked):
    return cheapest_change(asked, smaller_files(asked.models.diffusion_model.name))


@pytest.mark.parametrize(("model", "storage", "gib"), STREAMED)
def test_what_the_official_files_stream(model, storage, gib):
    plans = [plan(gib, model, references=count, cache=storage) for count in (0, 1, 2, 4)]
    assert all(one.fits for one in plans)
    expected = STREAMED[model, storage, gib]
    assert [one.sampling.streamed / GIB for one in plans] == pytest.approx(expected, abs=0.1)
    assert [one.resident for one in plans] == [not nbytes for nbytes in expected]


def test_a_streaming_card_is_filled_to_the_brim():
    asked = plan(12, BF16)
    assert asked.sampling.held == asked.card.usable
    assert asked.sampling.streamed == asked.models.diffusion_model.kept - named(asked.sampling.parts, "diffusion model")


def test_the_phases_are_those_that_run():
    assert [phase.name for phase in plan(12, FP8).phases] == ["prompt", "sampling", "picture"]
    assert [phase.name for phase in plan(12, FP8, references=1).phases] == ["prompt", "images", "sampling", "picture"]


def test_the_encoder_stays_where_both_find_room():
    assert plan(24, NVFP4).encoder_stays and not plan(12, FP8).encoder_stays


def test_a_host_that_estimates_sets_more_aside():
    card = Card(8 * GIB, 6 * GIB, 32 * GIB, on_demand=False)
    asked = plan(card, FP8, references=2)
    stays = named(asked.sampling.parts, "diffusion model") + named(asked.sampling.parts, "in transit")
    assert stays == card.usable - host_estimate(asked.models.dims, asked.job)
    assert asked.sampling.note == "ComfyUI sets 4.7 GiB aside"
    on_demand = plan(dataclasses.replace(card, on_demand=True), FP8, references=2)
    assert on_demand.sampling.streamed < asked.sampling.streamed and not on_demand.sampling.note


def test_what_the_host_only_estimates_does_not_make_it_fail():
    card = Card(4 * GIB, 3 * GIB, 32 * GIB, on_demand=False)
    asked = plan(card, NVFP4, references=2)
    assert host_estimate(asked.models.dims, asked.job) > card.usable and asked.fits


def test_a_cache_that_finds_no_room_streams_and_leaves_room_for_its_layers():
    asked = plan(8, KV_FP8, references=4, cache=Storage.MODEL)
    parts, cache = dict(asked.sampling.parts), cache_bytes(asked.models.dims, asked.job)
    assert asked.fits and parts["diffusion model"] == 0
    assert 0 < parts["references' cache"] < cache and parts["in transit"] > 2 * cache // 32
    assert asked.sampling.held == asked.card.usable


def test_a_cache_larger_than_the_card_can_still_run():
    asked = plan(16, KV_FP8, references=10, cache=Storage.MODEL)
    assert cache_bytes(asked.models.dims, asked.job) > asked.card.total
    assert asked.fits and asked.sampling.streamed > 15 * GIB


def test_the_vae_works_in_tiles_before_it_is_short():
    card = Card(2 * GIB, GIB, 32 * GIB)
    picture = plan(card, NVFP4, size=Size(2048, 2048)).phases[-1]
    assert picture.note == "in tiles" and picture.held <= card.usable and not picture.short
    tiny = plan(Card(GIB, GIB // 4, 32 * GIB), NVFP4, size=Size(2048, 2048)).phases[-1]
    assert tiny.short == tiny.held - GIB // 4


@pytest.mark.parametrize("gib", [0.5, 1, 4])
def test_a_card_that_is_far_too_small_is_told_so(gib):
    asked = plan(gib, BF16, references=10, size=Size(4096, 4096), batch=8)
    assert not asked.fits and not asked.resident and asked.card.usable >= 0
    assert asked.sampling.short == asked.sampling.held - asked.card.usable
    assert all(nbytes >= 0 for phase in asked.phases for _, nbytes in phase.parts)


class TestTheCheapestChange:
    def test_none_is_offered_where_all_is_well(self):
        assert best(plan(24, FP8)) is None

    @pytest.mark.parametrize(("gib", "name"), [(12, FP8), (8, NVFP4)])
    def test_the_largest_file_that_stays(self, gib, name):
        change = best(plan(gib, BF16))
        assert change.what == f"{name}.safetensors instead of {BF16}.safetensors" and change.plan.resident

    def test_int8_comes_before_another_file(self):
        change = best(plan(24, KV, references=3, cache=Storage.MODEL))
        assert change.what.startswith("int8") and change.plan.resident

    def test_a_smaller_batch(self):
        change = best(plan(16, FP8, references=2, batch=4, guided=True))
        assert change.what == "batch 1 instead of 4" and change.plan.resident

    def test_the_least_streaming_where_nothing_stays(self):
        asked = plan(8, BF16, references=4)
        change = best(asked)
        assert change.what.startswith(NVFP4) and not change.plan.resident
        assert change.plan.sampling.streamed < asked.sampling.streamed

    def test_a_small_picture_is_not_halved(self):
        assert best(plan(4, "flux-2-klein-9b-nvfp4", size=Size(512, 512))) is None


SIDES = st.integers(4, 128).map(lambda count: 16 * count)
JOBS = st.builds(
    Job,
    size=st.builds(Size, SIDES, SIDES),
    references=st.integers(0, 10).map(lambda count: (MEGAPIXEL,) * count),
    batch=st.integers(1, 4),
    guided=st.booleans(),
    cache=st.sampled_from([None, *Storage]),
)
SETS = st.builds(official, st.sampled_from([NVFP4, FP8, BF16]))
CARDS = st.builds(Card, st.just(96 * GIB), st.integers(0, 96 * GIB), st.just(64 * GIB), on_demand=st.booleans())


@settings(max_examples=300, deadline=None)
@given(SETS, JOBS, CARDS)
def test_every_byte_is_somewhere(models, job, card):
    asked = make_plan(models, job, card)
    parts = dict(asked.sampling.parts)
    weights = models.diffusion_model.kept + cache_bytes(models.dims, job)
    assert parts["diffusion model"] + parts["references' cache"] + asked.sampling.streamed == weights
    assert parts["activations"] == activation_bytes(models.dims, job) + models.diffusion_model.largest_step
    for phase in asked.phases:
        assert phase.held == sum(nbytes for _, nbytes in phase.parts)
        assert all(nbytes >= 0 for _, nbytes in phase.parts)
        assert phase.short == max(0, phase.held - card.usable)


@settings(max_examples=300, deadline=None)
@given(SETS, JOBS, CARDS, st.integers(1, 24 * GIB))
def test_more_vram_never_streams_more(models, job, card, more):
    larger = dataclasses.replace(card, usable=card.usable + more)
    before, after = make_plan(models, job, card), make_plan(models, job, larger)
    pairs = list(zip(before.phases, after.phases, strict=True))
    assert all(other.streamed <= one.streamed for one, other in pairs)
    assert all(other.short <= one.short for one, other in pairs)


@settings(max_examples=300, deadline=None)
@given(SETS, JOBS, CARDS)
def test_another_reference_never_takes_less(models, job, card):
    more = dataclasses.replace(job, references=(*job.references, MEGAPIXEL))
    before, after = make_plan(models, job, card).sampling, make_plan(models, more, card).sampling
    assert after.held + after.streamed >= before.held + before.streamed
    assert after.streamed >= before.streamed and after.short >= before.short


@settings(max_examples=100, deadline=None)
@given(SETS, JOBS, st.integers(1, 48))
def test_a_change_is_always_for_the_better(models, job, gib):
    asked = make_plan(models, job, named_card(gib, 64))
    change = best(asked)
    if change is not None:
        assert not asked.resident and (change.plan.fits or not asked.fits)
        assert change.plan.sampling.streamed < asked.sampling.streamed or not asked.fits
