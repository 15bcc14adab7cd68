"""Pairs of a photograph and an edit of it of which everything is known: what moved, what changed, which colours."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

FINER = 2  # scenes are drawn so much finer than the pictures


@dataclass(frozen=True)
class Edited:
    """Pictures (height, width, 3) float32 in [0, 1].

    Attributes:
        drifted: the original with the edit's colours, and nothing else of it.
        changed: what shows something else, (height, width) bool, in the original's pixels.
    """

    original: np.ndarray
    edit: np.ndarray
    drifted: np.ndarray
    changed: np.ndarray


@functools.lru_cache(maxsize=4)
def leaves(width: int, height: int, seed: int) -> np.ndarray:
    """Shapes of all sizes one over another, with shades and a grain: the statistics of a photograph. Linear light."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for _ in range(1500):
        radius = max(width, height) * 0.006 / random.uniform(0.02, 1) ** 0.9
        x, y, angle, slim = random.uniform(0, (width, height, math.pi, 1))
        corners = random.integers(3, 24)
        turns = np.sort(random.uniform(0, 2 * math.pi, corners))
        points = np.exp(1j * turns)
        points = (points.real + 1j * points.imag * (0.4 + 0.6 * slim)) * radius * np.exp(1j * angle) + x + 1j * y
        colour = random.beta(1.6, 1.6, 3) * 0.6 + random.beta(1.6, 1.6) * 0.4
        draw.polygon([(p.real, p.imag) for p in points], fill=tuple((colour * 255).astype(int)))
    scene = linear(np.asarray(picture, np.float32) / 255 * _shades(width, height, random)[..., None])
    scene.setflags(write=False)  # kept for the next pair of it
    return scene


def _shades(width: int, height: int, random: np.random.Generator) -> np.ndarray:
    """1/f noise in [0.55, 1]."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    size = 1 / np.maximum(np.hypot(down, across), 1 / max(width, height))
    noise = np.fft.irfft2(size * np.exp(2j * np.pi * random.uniform(size=size.shape)), s=(height, width))
    return (0.8 + 0.1 * noise / noise.std()).clip(0.55, 1).astype(np.float32)


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encoded(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def edited(
    width: int = 640,
    height: int = 480,
    *,
    shift: tuple[float, float] = (0, 0),
    zoom: float = 1,
    degrees: float = 0,
    changed: float = 0,
    colours: Callable[[np.ndarray], np.ndarray] = lambda srgb: srgb,
    noise: float = 0,
    quality: int | None = None,
    seed: int = 0,
) -> Edited:
    """An edit in which the original's point z from the centre lies at zoom * z, turned clockwise, + shift.

    Args:
        changed: the share of the picture that shows another scene.
        colours: what happens to the sRGB values.
        noise: the standard deviation in 8-bit levels, in both pictures.
        quality: of the JPEG that both were kept as.
    """
    scene, other = (leaves(width * FINER, height * FINER, 2 * seed + i) for i in (0, 1))
    hidden = _regions(width * FINER, height * FINER, changed, seed)
    moved = [_moved(one, shift, zoom, degrees) for one in (np.where(hidden[..., None], other, scene), hidden)]
    original, edit = encoded(_smaller(scene)), colours(encoded(_smaller(moved[0])))
    random = np.random.default_rng(seed)
    drifted, mask = colours(original), _smaller(hidden[..., None].astype(np.float32))[..., 0] > 0.5
    original, edit = (_kept(one, noise, quality, random) for one in (original, edit))
    return Edited(original, edit, drifted.astype(np.float32), mask)


def _regions(width: int, height: int, share: float, seed: int) -> np.ndarray:
    """A large ellipse and stripes beside it, of that share of the area together."""
    y, x = np.mgrid[:height, :width]
    random = np.random.default_rng(seed + 1000)
    away = np.hypot((x / width - random.uniform(0.3, 0.7)), (y / height - random.uniform(0.3, 0.7)))
    ripples = away + 0.05 * np.sin(9 * np.arctan2(y / height - 0.5, x / width - 0.5))
    return ripples < np.quantile(ripples, share) if share else np.zeros((height, width), bool)


def _moved(picture: np.ndarray, shift: tuple[float, float], zoom: float, degrees: float) -> np.ndarray:
    """By Pillow's bicubic interpolation of floats; beyond the edges the picture is mirrored."""
    kind, channels = picture.dtype, np.atleast_3d(picture.astype(np.float32))
    height, width = channels.shape[:2]
    border = max(width, height) // 4
    channels = np.pad(channels, ((border, border), (border, border), (0, 0)), mode="reflect")
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees))) * zoom
    back = 1 / turn
    middle = complex(width, height) / 2
    offset = middle + complex(border, border) - back * (middle + complex(*shift) * FINER)
    matrix = (back.real, -back.imag, offset.real, back.imag, back.real, offset.imag)
    done = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(one)).transform(
                (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
            )
        )
        for one in np.moveaxis(channels, 2, 0)
    ]
    moved = np.stack(done, 2)
    return moved[..., 0] > 0.5 if kind == np.bool_ else moved


def _smaller(picture: np.ndarray) -> np.ndarray:
    height, width, channels = picture.shape
    return picture.reshape(height // FINER, FINER, width // FINER, FINER, channels).mean((1, 3))


def _kept(picture: np.ndarray, noise: float, quality: int | None, random: np.random.Generator) -> np.ndarray:
    noisy = (picture + random.normal(0, noise / 255, picture.shape)).clip(0, 1)
    if quality is None:
        return noisy.astype(np.float32)
    file = io.BytesIO()
    Image.fromarray((noisy * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255
