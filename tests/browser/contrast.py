"""How well letters stand out, as the Web Content Accessibility Guidelines 2.2 measure it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

READABLE = 4.5  # to 1: AA, for text of a usual size


def luminance(colours: npt.NDArray) -> npt.NDArray:
    """Relative luminance of sRGB in 0..1, (..., 3) -> (...)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(one: npt.NDArray, other: npt.NDArray) -> npt.NDArray:
    """The ratio of two luminances, at least 1."""
    return (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)


def contrast_of_line(pixels: npt.NDArray) -> float:
    """Of a line of text, (height, width, 3) in 0..255: what stands out most against the commonest colour."""
    flat = pixels.reshape(-1, 3)
    colours, counts = np.unique(flat, axis=0, return_counts=True)
    return float(contrast(luminance(flat / 255), luminance(colours[counts.argmax()] / 255)).max())
