"""The edit report on pairs of which everything is known: within 0.1 px, 0.1 % and 0.1 dE2000 up to 60 % changed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.colour import delta_e_2000, lab_of
from klein9b.klein.edit_report import Choices, picture_of, report_on, told
from klein9b.klein.framing import UnusableImage
from standins import photograph
from standins.edited_photographs import edited

THRESHOLD = 5.0
PIXEL, ZOOM, DELTA_E = 0.1, 0.001, 0.1
AS_IT_IS = Choices(undo_movement=False, lock_colors=False, only_changes=False, feather=8)
ALL = Choices(undo_movement=True, lock_colors=True, only_changes=True, feather=8)

DRIFTS = {
    "none": lambda srgb: srgb,
    "warmer": lambda srgb: (srgb * np.float32([1.05, 1, 0.95])).clip(0, 1),
    "brighter": lambda srgb: srgb.clip(0, 1) ** np.float32(0.92),
    "flatter": lambda srgb: 0.03 + 0.94 * srgb,
    "more vivid": lambda srgb: (srgb + 0.12 * (srgb - srgb.mean(2, keepdims=True))).clip(0, 1),
}


def tensor(picture):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, 2, 0)))


def reported(pair, threshold=THRESHOLD):
    return report_on(tensor(pair.original), tensor(pair.edit), threshold)


def made(pair, choices, report=None):
    original, edit = tensor(pair.original), tensor(pair.edit)
    return picture_of(original, edit, report or report_on(original, edit, THRESHOLD), choices)


def assert_moved(report, shift, zoom, degrees, size=(640, 480)):
    by = report.alignment.similarity
    assert report.alignment.found
    assert abs(by.shift - complex(*shift)) < PIXEL
    assert abs(by.zoom - zoom) < ZOOM
    assert abs(math.radians(by.degrees - degrees)) * math.hypot(*size) / 2 < 2 * PIXEL


def drift_of(pair, report):
    """The mean difference of the colours of what is unchanged."""
    same = torch.from_numpy(~pair.changed) & report.covered
    return float(delta_e_2000(lab_of(tensor(pair.original)), lab_of(tensor(pair.drifted)))[same].mean())


KEPT = [(0, None), (3, None), (0, 90), (2, 75)]
MOVED = [((0, 0), 1, 0), ((0.4, -0.3), 1, 0), ((-31.6, 22.2), 1.037, -2.9), ((12.3, 8.7), 0.966, 3.1)]
CASES = [
    (drift, MOVED[(i + j) % 4], changed, *KEPT[(i + 2 * j) % 4])
    for i, drift in enumerate(DRIFTS)
    for j, changed in enumerate((0, 0.35, 0.6))
]


@pytest.mark.parametrize(("drift", "moved", "changed", "noise", "quality"), CASES)
def test_it_is_the_truth(drift, moved, changed, noise, quality):
    shift, zoom, degrees = moved
    known = {"shift": shift, "zoom": zoom, "degrees": degrees, "changed": changed, "colours": DRIFTS[drift]}
    pair = edited(**known, noise=noise, quality=quality, seed=len(drift))
    report = reported(pair)
    assert_moved(report, *moved)
    clean = edited(**known, seed=len(drift)) if noise or quality else pair
    assert abs(report.drift.delta_e - drift_of(clean, report)) < DELTA_E
    true = torch.from_numpy(pair.changed) & report.covered
    assert abs(report.share - float(true.sum() / report.covered.sum())) < 0.02
    assert (true & ~report.changed).sum() <= 0.03 * true.sum()


@settings(max_examples=10, deadline=None)
@given(
    shift=st.tuples(st.floats(-35, 35), st.floats(-35, 35)),
    zoom=st.floats(0.95, 1.05),
    degrees=st.floats(-4, 4),
    changed=st.floats(0, 0.6),
    seed=st.integers(0, 50),
)
def test_any_movement_is_found(shift, zoom, degrees, changed, seed):
    pair = edited(480, 400, shift=shift, zoom=zoom, degrees=degrees, changed=changed, noise=2, quality=80, seed=seed)
    assert_moved(reported(pair), shift, zoom, degrees, (480, 400))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_photographs_are_found_by_a_shift_of_whole_pixels(name):
    picture = np.asarray(photograph(name).convert("RGB"), np.float32) / 255
    original, edit = (tensor(one) for one in (picture[9:, :-7], picture[:-9, 7:]))
    by = report_on(original, edit, THRESHOLD).alignment.similarity
    assert abs(by.shift - (-7 + 9j)) < PIXEL and abs(by.zoom - 1) < ZOOM


class TestTheSame:
    @pytest.mark.parametrize("size", [(640, 480), (64, 64), (63, 200), (1, 1)])
    def test_nothing_is_reported_and_nothing_touched(self, size):
        pair = edited(*size)
        pair = replace(pair, edit=pair.original)
        report = reported(pair)
        by = report.alignment.similarity
        assert (by.turn, by.shift, report.share) == (1, 0, 0)
        assert report.drift.delta_e == 0 and report.drift.lab == (0, 0, 0)
        assert torch.equal(made(pair, ALL, report), tensor(pair.original))

    @pytest.mark.parametrize("value", [0, 0.5, 1])
    def test_of_one_colour_too(self, value):
        flat = torch.full((3, 100, 90), float(value))
        report = report_on(flat, flat.clone(), THRESHOLD)
        assert report.drift.delta_e == 0 and report.share == 0

    def test_of_noise_alone_nothing_moved(self):
        report = reported(edited(noise=3, quality=85))
        assert report.alignment.similarity.farthest(640, 480) < PIXEL
        assert report.drift.delta_e < DELTA_E and report.share < 0.002


def test_the_same_pictures_give_the_same_report():
    pair, other = edited(shift=(4.5, 2), changed=0.4, seed=3), edited(zoom=1.02, seed=4)
    torch.manual_seed(1)
    first = reported(pair)
    reported(other)
    torch.manual_seed(2)
    second = reported(pair)
    assert told(first) == told(second) and first.alignment.similarity == second.alignment.similarity
    assert torch.equal(first.changed, second.changed) and torch.equal(first.lock.terms, second.lock.terms)


def test_the_hosts_random_numbers_stay_as_they_are():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    reported(edited(320, 240, shift=(2, 1)))
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


class TestAnotherPicture:
    def test_it_is_said_that_nothing_was_found(self):
        report = report_on(tensor(edited(seed=1).original), tensor(edited(seed=2).original), THRESHOLD)
        assert not report.alignment.found and report.share > 0.8
        assert told(report).startswith("shift, zoom, rotation: not measured")

    def test_one_without_any_feature(self):
        report = report_on(torch.zeros(3, 100, 100), torch.ones(3, 100, 100), THRESHOLD)
        assert not report.alignment.found
        assert "not measured" in told(report)


@pytest.fixture(scope="module")
def pair():
    return edited(shift=(6.4, -3.3), zoom=1.015, degrees=0.8, changed=0.3, colours=DRIFTS["warmer"], seed=6)


@pytest.fixture(scope="module")
def report(pair):
    return reported(pair)


class TestChoices:
    def test_none_leaves_the_edit_as_it_is(self, pair, report):
        assert torch.equal(made(pair, AS_IT_IS, report), tensor(pair.edit))

    def test_movement_and_colours_undone_the_original_is_back(self, pair, report):
        choices = replace(AS_IT_IS, undo_movement=True, lock_colors=True)
        picture, original = made(pair, choices, report), tensor(pair.original)
        same = ~report.changed & report.covered
        rest = (picture - original).abs().mean(0)[same]
        raw = (tensor(pair.edit) - original).abs().mean(0)[same]
        assert rest.mean() < 0.01 and raw.mean() > 5 * rest.mean()
        assert torch.equal(picture[:, ~report.covered], original[:, ~report.covered])

    def test_colours_alone_leave_everything_where_it_is(self, pair, report):
        picture = made(pair, replace(AS_IT_IS, lock_colors=True), report)
        plain = edited(shift=(6.4, -3.3), zoom=1.015, degrees=0.8, changed=0.3, seed=6)
        assert (picture - tensor(plain.edit)).abs().mean() < 0.006

    def test_only_changes_leave_every_other_pixel_the_originals(self, pair, report):
        picture, original = made(pair, ALL, report), tensor(pair.original)
        far = torch.nn.functional.max_pool2d(report.changed[None].float(), 17, 1, 8)[0] == 0
        assert far.any() and torch.equal(picture[:, far], original[:, far])
        true = torch.from_numpy(pair.changed) & report.changed
        assert (picture - original).abs().mean(0)[true].mean() > 0.1


def test_a_part_of_another_colour_changed():
    """It has the original's every edge, and is not taken for drift."""
    pair = edited(seed=7)
    edit = pair.edit.copy()
    edit[100:300, 150:450] = edit[100:300, 150:450][..., [2, 0, 1]]
    report = reported(replace(pair, edit=edit))
    assert report.drift.delta_e < DELTA_E
    assert report.changed[110:290, 160:440].float().mean() > 0.8
    assert not report.changed[:90].any() and not report.changed[310:].any()


def test_a_higher_threshold_finds_less():
    pair = edited(changed=0.4, seed=8)
    shares = [reported(pair, threshold).share for threshold in (2.0, 10.0, 40.0)]
    assert shares[0] > shares[1] > shares[2]


def test_pictures_of_two_sizes_are_named():
    with pytest.raises(UnusableImage, match="The edit is 64x80 pixels and the original 80x64: .*Klein 9B Restore"):
        report_on(torch.zeros(3, 64, 80), torch.zeros(3, 80, 64), THRESHOLD)


def test_it_is_told_in_words():
    text = told(reported(edited(shift=(-4.25, 3.5), zoom=0.98, degrees=-1.5, changed=0.3, seed=9)))
    shift, zoom, rotation, drift, changed = text.splitlines()
    assert shift.endswith("px down") and " px left, " in shift
    assert zoom in ("zoom: -2.00 %", "zoom: -1.99 %", "zoom: -2.01 %")
    assert rotation == "rotation: 1.50 degrees counterclockwise"
    assert drift.startswith("colour drift of the unchanged part: dE2000 0.0")
    assert changed.startswith("changed: 3") and changed.endswith("% of the picture")
