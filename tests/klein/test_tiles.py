"""Tiles of a picture: they cover it, weigh 1 together and leave no seam."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.tiles import Tiling

LENGTHS = st.integers(1, 120)


@st.composite
def tilings(draw):
    largest = draw(st.integers(8, 80))
    return Tiling(largest, draw(st.integers(1, largest // 2)))


def summed(tiles):
    total = torch.zeros(tiles.picture, dtype=torch.float64)
    for window, weight in zip(tiles.windows, tiles.weights):
        window.of(total).add_(weight)
    return total


@settings(max_examples=60, deadline=None)
@given(tilings(), LENGTHS, LENGTHS)
def test_the_weights_sum_to_one_over_every_cell(tiling, height, width):
    tiles = tiling.tiles(height, width)
    assert tiles.picture == (height, width)
    assert min(float(weight.min()) for weight in tiles.weights) > 0
    assert float((summed(tiles) - 1).abs().max()) < 1e-6


@settings(max_examples=60, deadline=None)
@given(tilings(), LENGTHS, LENGTHS)
def test_tiles_are_of_one_size_no_larger_than_allowed_and_overlap(tiling, height, width):
    tiles = tiling.tiles(height, width)
    assert {(w.height, w.width) for w in tiles.windows} == {tiles.size}
    assert max(tiles.size) <= tiling.largest
    for spans, length in ((tiles.rows, height), (tiles.columns, width)):
        assert (spans[0][0], spans[-1][1]) == (0, length)
        assert all(stop - start >= tiling.overlap for (_, stop), (start, _) in itertools.pairwise(spans))


@settings(max_examples=60, deadline=None)
@given(tilings(), LENGTHS, LENGTHS)
def test_no_fewer_tiles_would_do(tiling, height, width):
    tiles = tiling.tiles(height, width)
    for spans, length in ((tiles.rows, height), (tiles.columns, width)):
        fewer = len(spans) - 1
        assert fewer * tiling.largest - max(0, fewer - 1) * tiling.overlap < length


@settings(max_examples=30, deadline=None)
@given(tilings(), LENGTHS, LENGTHS)
def test_a_constant_leaves_no_seam(tiling, height, width):
    tiles = tiling.tiles(height, width)
    merged = tiles.merged([torch.full((1, 2, *tiles.size), 3.0)] * len(tiles.windows))
    assert float((merged - 3).abs().max()) < 1e-5


def test_what_agrees_comes_back_as_it_was():
    tiles = Tiling(16, 5).tiles(37, 29)
    whole = torch.randn(2, 3, 37, 29, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(tiles.merged([window.of(whole) for window in tiles.windows]), whole, atol=1e-6)


def test_the_middle_of_a_tile_is_its_own_and_an_edge_is_level():
    """Where two tiles disagree, the one goes over into the other without a step."""
    tiles = Tiling(32, 8).tiles(1, 56)
    merged = tiles.merged([torch.full((1, *tiles.size), float(i)) for i in range(2)])[0, 0]
    assert (merged[:24] == 0).all() and (merged[32:] == 1).all()
    assert float(merged.diff().max()) < 0.2 and (merged.diff() >= 0).all()
    assert float(merged.diff()[23]) < 0.03


def test_one_tile_where_the_picture_is_no_larger():
    (window,) = Tiling(64, 8).tiles(64, 40).windows
    assert (window.top, window.left, window.height, window.width) == (0, 0, 64, 40)
    assert (Tiling(64, 8).tiles(64, 40).weights[0] == 1).all()


def test_4096_pixels_square_are_25_tiles_of_928():
    tiles = Tiling(64, 8).tiles(256, 256)
    assert (len(tiles.windows), tiles.size, tiles.tokens) == (25, (58, 58), 3364)


@pytest.mark.parametrize("overlap", [0, 33, 64])
def test_an_overlap_that_no_tile_has(overlap):
    with pytest.raises(ValueError, match=rf"overlap of the tiles is {16 * overlap} pixels, .* from 16 to 512"):
        Tiling(64, overlap)
