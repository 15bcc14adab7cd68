"""How an edit lies over its original, though much of it shows something else.

Features that both show give a first answer, by the largest consensus; the light of the pixels that did not change
then refines it to a small part of a pixel. Pictures are tensors (3, height, width), float32 sRGB in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import interpolate

from .similarity import Similarity, centred, consensus, inside, warped

FEATURES = 1000
FEATURE_SIDE = 640  # of the longer side; features need no more
SMALLEST = 64  # pixels of the shorter side; features need as much
FEWEST = 10  # agreeing features; by chance there are two or three
TOLERANCE = 3.0  # pixels of the pictures with the features
FINEST = 768**2  # pixels of the pictures that are compared
STEPS = 8
SETTLED = 0.004  # pixels, of the last step
STILL = 0.05  # pixels; what moves less is better left than sampled anew
TUKEY = 4.685
BLUR = 0.15  # pixels: by so much an edge may be off that did not change, for the way it was resampled
LEVEL = 0.003  # of light: so much flat parts may be off
SAMPLES = 20_000  # of the pixels, where only their spread is asked
LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Alignment:
    """Where the original's points lie in the edit.

    Attributes:
        found: False where too little of the original shows in the edit; then nothing is taken to move.
        same: what looks unchanged apart from light, (height, width) bool, or None where nothing was found.
    """

    similarity: Similarity
    found: bool
    same: torch.Tensor | None = None


def align(original: torch.Tensor, edit: torch.Tensor) -> Alignment:
    """How the edit lies over the original, two pictures of one size. The same pictures give the same answer."""
    height, width = original.shape[1:]
    if min(height, width) < SMALLEST:
        return Alignment(Similarity(), torch.equal(original, edit))
    if torch.equal(original, edit):
        return Alignment(Similarity(), True, torch.ones(height, width, dtype=torch.bool))
    first = _by_features(original, edit)
    if first is None:
        return Alignment(Similarity(), False)
    found = Alignment(first, True)
    for area in (FINEST // 4, FINEST):
        found = _refined(original, edit, found.similarity, min(1.0, math.sqrt(area / (width * height))))
    if found.similarity.farthest(width, height) < STILL:
        found = replace(found, similarity=Similarity())
    return found


def _by_features(original: torch.Tensor, edit: torch.Tensor) -> Similarity | None:
    height, width = original.shape[1:]
    points, others = _matches(original, edit, min(1.0, FEATURE_SIDE / max(width, height)))
    similarity, agreeing = consensus(points, others, TOLERANCE * max(1.0, max(width, height) / FEATURE_SIDE))
    return similarity if agreeing.sum() >= FEWEST else None


def _matches(original: torch.Tensor, edit: torch.Tensor, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of the original and of the edit that look alike, complex, in the pictures' pixels from the centre."""
    from kornia.feature import SIFTFeature, match_mnn

    height, width = original.shape[1:]
    with torch.random.fork_rng(devices=[]):  # its layers are filled with random numbers first
        detector = SIFTFeature(FEATURES, upright=True, device=original.device)
    described = []
    with torch.no_grad():
        for picture in (original, edit):
            grey = _resized(picture.mean(0, keepdim=True), scale)
            frames, _, descriptors = detector(grey[None])
            place = frames[0, :, :, 2].double().numpy()
            ratio = width / grey.shape[2], height / grey.shape[1]
            middle = (grey.shape[2] - 1) / 2, (grey.shape[1] - 1) / 2
            points = (place[:, 0] - middle[0]) * ratio[0] + 1j * (place[:, 1] - middle[1]) * ratio[1]
            described.append((points, descriptors[0]))
        (points, one), (others, other) = described
        if min(len(one), len(other)) == 0:
            return points[:0], others[:0]
        pairs = match_mnn(one, other)[1].numpy()
    return points[pairs[:, 0]], others[pairs[:, 1]]


def _refined(original: torch.Tensor, edit: torch.Tensor, start: Similarity, scale: float) -> Alignment:
    """By Gauss-Newton on linear light: the similarity, and a gain and an offset of the light, on what fits."""
    height, width = original.shape[1:]
    here, there = (_light(picture, scale) for picture in (original, edit))
    pixel = width / here.shape[2], height / here.shape[1]
    similarity, light = start, (1.0, 0.0)
    for _ in range(STEPS):
        similarity, light, moved, weights = _step(here[0], there, similarity, light, pixel)
        if moved.farthest(width, height) < SETTLED:
            break
    same = interpolate((weights > 0.3).float()[None, None], size=(height, width))[0, 0] > 0.5
    return Alignment(similarity, True, same)


def _step(
    here: torch.Tensor, there: torch.Tensor, at: Similarity, light: tuple[float, float], pixel: tuple[float, float]
) -> tuple[Similarity, tuple[float, float], Similarity, torch.Tensor]:
    """One step: the similarity, the light, by what it moved, and the weights (height, width) it was made with."""
    height, width = here.shape
    over = warped(there, at, pixel)[0]
    rest = over - light[0] * here - light[1]
    reach = math.hypot(width * pixel[0], height * pixel[1]) / 2
    slopes = _slopes((over + light[0] * here) / 2, here, pixel, reach)
    steep = torch.hypot(slopes[0], slopes[1]).view_as(rest)
    weights = _weights(rest / torch.hypot(steep * BLUR, torch.tensor(LEVEL))) * inside(at, width, height, pixel)
    weighted = slopes * weights.flatten()
    normal = (weighted @ slopes.T).double()
    normal += torch.eye(len(normal), dtype=torch.float64) * 1e-9 * normal.diagonal().max()
    right, down, zoom, turn, gain, offset = torch.linalg.solve(normal, -(weighted @ rest.flatten()).double()).tolist()
    moved = Similarity(1 + complex(zoom, turn) / reach, complex(right, down))
    similarity = Similarity(at.turn * moved.turn, at.turn * moved.shift + at.shift)
    return similarity, (light[0] + gain, light[1] + offset), moved, weights


def _slopes(picture: torch.Tensor, here: torch.Tensor, pixel: tuple[float, float], reach: float) -> torch.Tensor:
    """How the rest changes with a shift, a zoom, a rotation, a gain and an offset, (6, pixels)."""
    height, width = picture.shape
    down, right = torch.gradient(picture, spacing=(pixel[1], pixel[0]))
    x, y = (axis.float() for axis in centred(width, height))
    x, y = x * (pixel[0] / reach), y * (pixel[1] / reach)
    rows = (right, down, right * x + down * y, down * x - right * y, -here, -torch.ones_like(here))
    return torch.stack([row.flatten() for row in rows])


def _weights(rest: torch.Tensor) -> torch.Tensor:
    """Tukey's, times those of the surroundings: what changed is a region, in which some pixels fit by chance.

    The rest is in units of what is to be expected of it.
    """
    around = _mean(_mean(rest.abs()))
    return _tukey(rest) * _tukey(around - around.flatten()[:: _stride(around)].quantile(0.1))


def _tukey(rest: torch.Tensor) -> torch.Tensor:
    limit = TUKEY * _noise(rest)
    return (1 - (rest / limit).clamp(-1, 1) ** 2) ** 2


def _noise(rest: torch.Tensor) -> float:
    """The standard deviation of the pixels that fit, of which there may be but two fifths."""
    sizes = rest.abs().flatten()[:: _stride(rest)]
    sigma = float(sizes.quantile(0.2)) / 0.2533
    for _ in range(5):
        sigma = min(sigma, float(sizes[sizes <= 2.5 * sigma].quantile(0.5)) / 0.66)
    return max(sigma, 0.1)


def _stride(pixels: torch.Tensor) -> int:
    return 1 + pixels.numel() // SAMPLES


def _mean(picture: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(picture[None, None], 9, 1, 4, count_include_pad=False)[0, 0]


def _light(picture: torch.Tensor, scale: float) -> torch.Tensor:
    """Linear luminance (1, height, width), scaled and a little softer."""
    from kornia.color import rgb_to_linear_rgb
    from kornia.filters import gaussian_blur2d

    linear = rgb_to_linear_rgb(picture)
    luminance = sum(weight * channel for weight, channel in zip(LUMINANCE, linear))
    soft: torch.Tensor = gaussian_blur2d(_resized(luminance[None], scale)[None], (7, 7), (1.0, 1.0))[0]
    return soft


def _resized(picture: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape[1:])
    return interpolate(picture[None], size=(height, width), mode="bilinear", antialias=True)[0]
