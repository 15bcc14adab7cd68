"""A picture shifted, zoomed and turned: found from pairs of points, applied to pixels.

Points are complex numbers x + iy in pixels from the picture's centre, y downwards. A similarity takes z to
turn * z + shift, so that |turn| is the zoom and its angle the rotation, clockwise on the screen.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np
import torch

TRIES = 3000
LARGEST_ZOOM = 1.25
LARGEST_ROTATION = 15.0  # degrees


@dataclass(frozen=True)
class Similarity:
    """Where a point of the original lies in the edit."""

    turn: complex = 1
    shift: complex = 0

    @property
    def zoom(self) -> float:
        return abs(self.turn)

    @property
    def degrees(self) -> float:
        return math.degrees(cmath.phase(self.turn))

    def farthest(self, width: int, height: int) -> float:
        """By how many pixels it moves the corner that it moves most."""
        corners = [complex(x * width, y * height) / 2 for x in (-1, 1) for y in (-1, 1)]
        return max(abs((self.turn - 1) * corner + self.shift) for corner in corners)


def consensus(points: np.ndarray, others: np.ndarray, tolerance: float) -> tuple[Similarity, np.ndarray]:
    """The similarity that most pairs of points agree on within `tolerance` pixels, and which pairs do, (n,) bool.

    Pairs are tried by a fixed seed, so that the answer is always the same. With fewer than two pairs nothing agrees.
    """
    agreeing = np.zeros(len(points), bool)
    if len(points) < 2:
        return Similarity(), agreeing
    for turn, shift in zip(*_hypotheses(points, others)):
        near = np.abs(turn * points + shift - others) < tolerance
        if near.sum() > agreeing.sum():
            agreeing = near
    if agreeing.sum() < 2:
        return Similarity(), np.zeros(len(points), bool)
    return fitted(points[agreeing], others[agreeing]), agreeing


def _hypotheses(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarities through two pairs each, without those that no edit would be."""
    first, second = np.random.default_rng(0).integers(len(points), size=(2, TRIES))
    apart = points[second] - points[first]
    usable = np.abs(apart) > 0
    first, second, apart = first[usable], second[usable], apart[usable]
    turn = (others[second] - others[first]) / apart
    zoom, degrees = np.abs(turn), np.degrees(np.abs(np.angle(turn)))
    likely = (zoom < LARGEST_ZOOM) & (zoom > 1 / LARGEST_ZOOM) & (degrees < LARGEST_ROTATION)
    return turn[likely], (others[first] - turn * points[first])[likely]


def fitted(points: np.ndarray, others: np.ndarray) -> Similarity:
    """The similarity with the least squares over all pairs."""
    centre, other = points.mean(), others.mean()
    spread = points - centre
    turn = (spread.conj() * (others - other)).sum() / (np.abs(spread) ** 2).sum()
    return Similarity(complex(turn), complex(other - turn * centre))


def warped(picture: torch.Tensor, by: Similarity, pixel: tuple[float, float] = (1, 1)) -> torch.Tensor:
    """The edit (channels, height, width) as it lies over the original, by Catmull-Rom; edges are continued.

    torch's own bicubic has a steeper kernel, which does not even keep a ramp where it is: up to 0.04 pixels off.

    Args:
        pixel: the width and height of one of its pixels in those of the similarity.
    """
    height, width = picture.shape[1:]
    x, y = _places(by, width, height, pixel)
    (column, across), (row, down) = (_taps(place, side) for place, side in ((x, width), (y, height)))
    flat, done = picture.flatten(1), torch.zeros_like(picture)
    for rows, down_weight in zip(row, down):
        line = sum(flat[:, rows * width + columns] * weight for columns, weight in zip(column, across))
        done += line * down_weight
    return done


def _taps(place: torch.Tensor, side: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Along one axis the four pixels around each place, and their weights."""
    place = place + (side - 1) / 2
    first = place.floor()
    t = (place - first).float()
    weights = [
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    ]
    return [(first.long() + i).clamp(0, side - 1) for i in range(-1, 3)], weights


def inside(by: Similarity, width: int, height: int, pixel: tuple[float, float] = (1, 1)) -> torch.Tensor:
    """Which pixels of the original the edit shows, (height, width) bool."""
    x, y = _places(by, width, height, pixel)
    slack = 1e-3
    return (x.abs() <= (width - 1) / 2 + slack) & (y.abs() <= (height - 1) / 2 + slack)


def centred(width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x (1, width) and y (height, 1) of each pixel's middle from the picture's."""
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    return x[None, :], y[:, None]


def _places(by: Similarity, width: int, height: int, pixel: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each pixel lies in the edit, in the edit's pixels from its centre, (height, width) each."""
    x, y = centred(width, height)
    x, y = x * pixel[0], y * pixel[1]
    across = by.turn.real * x - by.turn.imag * y + by.shift.real
    down = by.turn.imag * x + by.turn.real * y + by.shift.imag
    return across / pixel[0], down / pixel[1]
