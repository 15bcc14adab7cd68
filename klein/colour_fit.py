"""What happened to the colours between two pictures of the same thing: a mix of the channels, with curves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

MOST_SAMPLES = 100_000
ROUNDS = 8
RIDGE = 1e-6  # of the samples: colours that do not occur move nothing
ENDS = (0.005, 0.995)
TUKEY = 4.685


@dataclass(frozen=True)
class ColourShift:
    """How sRGB values move, by cubics of each channel that all three read.

    Attributes:
        terms: (10, 3), of 1, the channels, their squares and their cubes.
        low, high: (3,) the colours it was fitted to. Beyond them a colour moves as at the end.
    """

    terms: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def applied(self, pixels: torch.Tensor) -> torch.Tensor:
        """sRGB pixels (3, height, width) or (3, n), moved, in [0, 1]."""
        known = pixels.flatten(1).T.clamp(self.low, self.high)
        return (pixels + (_basis(known) @ self.terms).T.reshape(pixels.shape)).clamp(0, 1)


def fit_colours(source: torch.Tensor, target: torch.Tensor, on: torch.Tensor) -> ColourShift:
    """What takes the colours of `source` to those of `target`, (3, height, width) sRGB, on the pixels of `on`.

    The least squares that pixels which do not follow them have no weight in. Without any pixel nothing moves.
    """
    one, other = (sampled(picture, on).T for picture in (source, target))
    if not len(one):
        return ColourShift(torch.zeros(10, 3), torch.zeros(3), torch.ones(3))
    low, high = (one.quantile(end, dim=0) for end in ENDS)
    basis, moved = _basis(one).double(), (other - one).double()
    terms = torch.zeros(10, 3, dtype=torch.float64)
    weights = torch.ones(len(one), dtype=torch.float64)
    for count in [4] * (ROUNDS // 2) + [10] * (ROUNDS // 2):  # a plain mix first, then with curves
        terms = torch.zeros_like(terms)
        terms[:count] = _solved(basis[:, :count], moved, weights)
        weights = _weights((moved - basis @ terms).norm(dim=1))
    return ColourShift(terms.float(), low, high)


def sampled(picture: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
    """Pixels (3, n) of a picture, of those that are on, in a grid over the picture."""
    step = math.ceil(math.sqrt(on.numel() / MOST_SAMPLES))
    return picture[:, ::step, ::step][:, on[::step, ::step]]


def _basis(pixels: torch.Tensor) -> torch.Tensor:
    return torch.cat((torch.ones_like(pixels[:, :1]), pixels, pixels**2, pixels**3), dim=1)


def _solved(basis: torch.Tensor, moved: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    weighted = basis.T * weights
    ridge = torch.full((basis.shape[1],), RIDGE * float(weights.sum()), dtype=torch.float64)
    return torch.linalg.solve(weighted @ basis + torch.diag(ridge), weighted @ moved)


def _weights(rest: torch.Tensor) -> torch.Tensor:
    limit = TUKEY * max(float(rest.quantile(0.35)), 1 / 255)
    return (1 - (rest / limit).clamp(max=1) ** 2) ** 2
