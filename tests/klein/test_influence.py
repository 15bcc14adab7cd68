"""Regions on a picture's grid, and settings put together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.influence import (
    AttentionSettings,
    Box,
    Cast,
    Influence,
    Mask,
    Negative,
    ReferenceInterval,
    UnusableRegion,
)

FRACTION = st.floats(0, 1)
CELLS = st.integers(1, 40)


def area(box):
    return (box.right - box.left) * (box.bottom - box.top)


@given(FRACTION, FRACTION, FRACTION, FRACTION, CELLS, CELLS)
def test_a_box_covers_its_area_at_any_size(a, b, c, d, rows, columns):
    box = Box(min(a, b), min(c, d), max(a, b), max(c, d))
    grid = box.on_grid(rows, columns)
    assert grid.shape == (rows, columns) and float(grid.min()) >= 0 and float(grid.max()) <= 1
    assert float(grid.mean()) == pytest.approx(area(box), abs=1e-5)


@given(FRACTION, CELLS, CELLS)
def test_halves_make_a_whole(cut, rows, columns):
    both = Box(right=cut).on_grid(rows, columns) + Box(left=cut).on_grid(rows, columns)
    assert torch.allclose(both, torch.ones(rows, columns), atol=1e-5)


def test_a_box_by_hand():
    wanted = torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.0, 0.25, 0.5, 0.5]])
    assert torch.allclose(Box(left=0.375, bottom=0.75).on_grid(2, 4), wanted)
    assert torch.equal(Box().on_grid(3, 5), torch.ones(3, 5))


@pytest.mark.parametrize("cells", [3, 7, 9, 30])
def test_thirds_leave_nothing_of_a_cell_between_them(cells):
    thirds = [Box(left=i / 3, right=(i + 1) / 3) for i in range(3)]
    assert torch.allclose(sum(one.on_grid(1, cells) for one in thirds), torch.ones(1, cells), atol=1e-5)


def test_a_mask_is_the_mean_of_its_pixels():
    pixels = torch.rand(4 * 16, 6 * 16, generator=torch.Generator().manual_seed(1))
    wanted = pixels.reshape(4, 16, 6, 16).mean(dim=(1, 3))
    assert torch.allclose(Mask(pixels).on_grid(4, 6), wanted, atol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from([1, 3, 16, 23]), FRACTION)
def test_a_painted_half_is_the_box_as_far_as_pixels_go(rows, columns, fine, cut):
    pixels = torch.zeros(rows * fine, columns * fine)
    edge = round(cut * columns * fine)
    pixels[:, :edge] = 1
    wanted = Box(right=edge / (columns * fine)).on_grid(rows, columns)
    assert torch.allclose(Mask(pixels).on_grid(rows, columns), wanted, atol=1e-5)


@pytest.mark.parametrize(("pixels", "grid"), [((1000, 1500), (64, 96)), ((64, 96), (64, 96)), ((1024, 1536), (64, 96))])
def test_a_mask_of_the_pictures_shape_at_any_size(pixels, grid):
    assert Mask(torch.ones(*pixels)).on_grid(*grid).min() == pytest.approx(1.0)


@pytest.mark.parametrize("pixels", [(96, 64), (1024, 1024), (1000, 1600)])
def test_another_shape_is_refused_in_a_sentence(pixels):
    with pytest.raises(UnusableRegion) as caught:
        Mask(torch.ones(*pixels), "mask of image 2").on_grid(64, 96)
    height, width = pixels
    assert str(caught.value) == (
        f"The mask of image 2 is {width}x{height} pixels, but the picture is 1536x1024, of another shape. "
        "Paint it on a picture of that shape."
    )


def test_painted_values_outside_the_range_are_cut():
    assert torch.equal(Mask(torch.full((4, 4), 3.0)).on_grid(2, 2), torch.ones(2, 2))
    assert torch.equal(Mask(torch.full((4, 4), -1.0)).on_grid(2, 2), torch.zeros(2, 2))


def test_masks_of_integers_are_taken():
    assert torch.equal(Mask(torch.ones(4, 4, dtype=torch.uint8)).on_grid(2, 2), torch.ones(2, 2))


def test_regions_are_compared_on_one_grid():
    assert Mask(torch.ones(3, 4)).sampled().shape == Box().sampled().shape
    assert torch.equal(Mask(torch.ones(3, 4)).sampled(), Box().sampled())


def test_the_interval_of_a_reference_says_what_it_is():
    assert Influence().interval.whole
    with pytest.raises(ValueError, match="interval of the reference starts at 0.5 and ends at 0.25"):
        ReferenceInterval(0.5, 0.25)


def test_later_settings_win_where_only_one_can_be():
    region = Cast(((0, 1),), 3, frozenset(), Box())
    first = AttentionSettings({1: Influence(2.0), 2: Influence(3.0)}, (region,), Negative(torch.zeros(1, 1, 1), 2.0))
    second = AttentionSettings({2: Influence(0.5)}, (region,))
    both = first.joined(second)
    assert {number: one.strength for number, one in both.influences.items()} == {1: 2.0, 2: 0.5}
    assert both.casts == (region, region) and both.negative is first.negative
    assert second.joined(first).negative is first.negative
    later = AttentionSettings(negative=Negative(torch.zeros(1, 1, 1), 5.0))
    assert first.joined(later).negative is later.negative


def test_what_was_taken_out_stays_out():
    """A strength set on an inpainted photograph must not show what is hidden in it."""
    hidden, other = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    first = AttentionSettings({1: Influence(kept=hidden)})
    assert torch.equal(first.joined(AttentionSettings({1: Influence(2.0)})).influences[1].kept, hidden)
    both = first.joined(AttentionSettings({1: Influence(2.0, kept=other)})).influences[1]
    assert both.strength == 2.0 and torch.equal(both.kept, hidden & other)
