"""Colours as the eye tells them apart: CIELAB and the CIEDE2000 difference."""

from __future__ import annotations

import math

import torch


def lab_of(pixels: torch.Tensor) -> torch.Tensor:
    """CIELAB under D65 of sRGB pixels (3, height, width) in [0, 1]; L* in [0, 100]."""
    from kornia.color import rgb_to_lab

    lab: torch.Tensor = rgb_to_lab(pixels)
    return lab


def delta_e_2000(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The CIEDE2000 difference of two Lab pictures (3, ...), of shape (...); kL = kC = kH = 1.

    Source: Sharma, Wu, Dalal, "The CIEDE2000 Color-Difference Formula", Color Research and Application 30 (2005).
    """
    (chroma_1, hue_1), (chroma_2, hue_2) = _primed(one, other)
    lightness, chroma = other[0] - one[0], chroma_2 - chroma_1
    hue = 2 * (chroma_1 * chroma_2).sqrt() * torch.sin(_turn(hue_1, hue_2, chroma_1 * chroma_2) / 2)
    mean_chroma = (chroma_1 + chroma_2) / 2
    mean_hue = _mean_hue(hue_1, hue_2, chroma_1 * chroma_2)
    above = ((one[0] + other[0]) / 2 - 50) ** 2
    lightness = lightness / (1 + 0.015 * above / (20 + above).sqrt())
    chroma = chroma / (1 + 0.045 * mean_chroma)
    hue = hue / (1 + 0.015 * mean_chroma * _hue_weight(mean_hue))
    turned = _rotation(mean_chroma, mean_hue) * chroma * hue
    return (lightness**2 + chroma**2 + hue**2 + turned).clamp(min=0).sqrt()


def _primed(one: torch.Tensor, other: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Chroma and hue in radians [0, 2 pi) of each, with a* stretched where both are near grey."""
    mean = (torch.hypot(one[1], one[2]) + torch.hypot(other[1], other[2])) / 2
    stretch = 1.5 - 0.5 * _saturated(mean)
    stretched = [(lab[1] * stretch, lab[2]) for lab in (one, other)]
    return [(torch.hypot(a, b), torch.atan2(b, a).remainder(2 * math.pi)) for a, b in stretched]


def _saturated(chroma: torch.Tensor) -> torch.Tensor:
    power = chroma**7
    return (power / (power + 25.0**7)).sqrt()


def _turn(hue_1: torch.Tensor, hue_2: torch.Tensor, chromas: torch.Tensor) -> torch.Tensor:
    """From one hue to the other by the shorter way; 0 where one of them has no hue."""
    turn = hue_2 - hue_1
    turn = torch.where(turn > math.pi, turn - 2 * math.pi, torch.where(turn < -math.pi, turn + 2 * math.pi, turn))
    return torch.where(chromas == 0, 0, turn)


def _mean_hue(hue_1: torch.Tensor, hue_2: torch.Tensor, chromas: torch.Tensor) -> torch.Tensor:
    """Where one of them has no hue, the other's."""
    total = hue_1 + hue_2
    around = torch.where(total < 2 * math.pi, total + 2 * math.pi, total - 2 * math.pi)
    mean = torch.where((hue_1 - hue_2).abs() > math.pi, around, total) / 2
    return torch.where(chromas == 0, total, mean)


def _hue_weight(hue: torch.Tensor) -> torch.Tensor:
    waves = ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.20, 4, 63))
    weight = torch.ones_like(hue)
    for size, times, offset in waves:
        weight += size * torch.cos(times * hue - math.radians(offset))
    return weight


def _rotation(chroma: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """The term that turns the ellipses of the blues."""
    degrees = torch.rad2deg(hue)
    angle = math.radians(60) * torch.exp(-(((degrees - 275) / 25) ** 2))
    return -2 * _saturated(chroma) * torch.sin(angle)
