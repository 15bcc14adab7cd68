"""Bars as long as the bytes say, and nothing drawn outside the picture."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import ImageColor
from planned import plan

from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.plan import GIB, RAM, Card
from klein9b.klein.plan_picture import WIDTH, plan_picture

BACKGROUND = "#1d1f24"
COLOURS = {"text encoder": "#c98bdb", "diffusion model": "#5b9bd5", "activations": "#e2725b", "in transit": "#8796a5"}
CACHE, TRACK = "#e8b04b", "#2b2e36"
LEFT, RIGHT, FIRST, ROW = 140, 692, 118, 60  # where bars begin and end, the first one's top, from one to the next
LONG = "a_file_with_a_very_long_name_" * 9 + " instead of " + "another_one_" * 9
CASES = {
    "fits": plan(12, "flux-2-klein-9b-fp8", references=2),
    "streams": plan(12, "flux-2-klein-9b"),
    "4 GiB": plan(4, "flux-2-klein-9b-fp8"),
    "far too small": plan(2, "flux-2-klein-9b", references=10, size=Size(4096, 4096), batch=8, cache=Storage.MODEL),
    "nothing free": plan(Card(4 * GIB, 0, 8 * GIB), "flux-2-klein-9b-fp8"),
    "cache": plan(16, "flux-2-klein-9b-kv-fp8", references=4, cache=Storage.MODEL),
    "set aside": plan(Card(12 * GIB, 11 * GIB, 32 * GIB, on_demand=False), "flux-2-klein-9b", references=2),
    "RAM": plan(Card(64 * GIB, 60 * GIB, 64 * GIB, memory=RAM), "flux-2-klein-9b"),
}


def drawn(plan, subtitle="1024x1024"):
    return np.round(plan_picture(plan, subtitle) * 255).astype(np.uint8)


def runs(image, row, colour):
    """The columns of that colour two pixels below a bar's upper edge, where no number stands."""
    line = image[FIRST + row * ROW + 3]
    return np.flatnonzero((line == ImageColor.getrgb(colour)).all(-1))


def pixels(plan, nbytes):
    ends = (max(phase.held, plan.card.usable) + phase.streamed for phase in plan.phases)
    return nbytes / max(plan.card.total, *ends) * (RIGHT - LEFT)


@pytest.mark.parametrize("case", CASES)
def test_bars_are_as_long_as_the_bytes(case):
    asked = CASES[case]
    image = drawn(asked)
    for row, phase in enumerate(asked.phases):
        for name, nbytes in phase.parts:
            colour = COLOURS.get(name)
            if colour and pixels(asked, nbytes) > 4:
                # the white line that ends the usable part may lie over two of them
                assert len(runs(image, row, colour)) == pytest.approx(pixels(asked, nbytes), abs=3.5), (name, row)


def test_parts_follow_one_another():
    asked = CASES["streams"]
    order = ["diffusion model", "in transit", "activations"]
    columns = [runs(drawn(asked), 1, COLOURS[name]) for name in order]
    assert columns[0][0] == LEFT
    assert all(one[-1] + 2 >= other[0] > one[-1] for one, other in pairwise(columns))


def test_what_is_free_is_track_and_what_streams_begins_at_the_limit():
    fits, aside = CASES["fits"], CASES["set aside"]
    assert len(runs(drawn(fits), 0, TRACK)) == pytest.approx(
        pixels(fits, fits.card.usable - fits.phases[0].held), abs=3.5
    )
    free = pixels(aside, aside.card.usable - aside.sampling.held)
    assert len(runs(drawn(aside), 2, TRACK)) == pytest.approx(free, abs=3.5)


def test_the_cache_has_its_own_colour():
    asked = CASES["cache"]
    cached = dict(asked.sampling.parts)["references' cache"]
    assert len(runs(drawn(asked), 2, CACHE)) == pytest.approx(pixels(asked, cached), abs=3.5)


@pytest.mark.parametrize("subtitle", ["", "1024x1024", LONG])
@pytest.mark.parametrize("case", CASES)
def test_nothing_touches_the_edge(case, subtitle):
    image = drawn(CASES[case], subtitle)
    edges = (image[:16], image[-8:], image[:, :26], image[:, WIDTH - 26 :])
    assert all((edge == ImageColor.getrgb(BACKGROUND)).all() for edge in edges)


def test_a_long_subtitle_is_cut_and_a_short_one_is_not():
    rows = slice(50, 78)
    asked = CASES["fits"]
    assert np.array_equal(drawn(asked, LONG)[rows], drawn(asked, LONG + "x")[rows])
    assert not np.array_equal(drawn(asked, "1024x1024")[rows], drawn(asked, "1024x1025")[rows])
    assert np.array_equal(drawn(asked, "a.safetensors b")[rows], drawn(asked, "a b")[rows])


def test_it_is_an_image_of_the_hosts():
    image = plan_picture(CASES["fits"], "")
    assert image.shape == (FIRST + 4 * ROW + 80, WIDTH, 3) and image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
