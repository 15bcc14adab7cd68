"""Normalized attention guidance: away from a negative prompt inside attention, at a cfg of 1.

Chen et al. 2025, arXiv 2505.21179, with the L1 norm of ComfyUI's NAGuidance node, and that node's defaults.
"""

from __future__ import annotations

from torch import Tensor

TAU = 1.5
ALPHA = 0.5
SMALLEST_NORM = 1e-6


def guided(positive: Tensor, negative: Tensor, strength: float) -> Tensor:
    """g = positive + (strength - 1) (positive - negative), at most TAU times as long; ALPHA g + (1 - ALPHA) positive.

    Args:
        positive: attention's output to the prompt, (batch, tokens, hidden).
        negative: to the negative prompt, likewise.
    """
    away = positive * strength - negative * (strength - 1.0)
    longer = _norm(away) / _norm(positive)
    away = away * (longer.clamp(max=TAU) / longer)
    return away * ALPHA + positive * (1.0 - ALPHA)


def _norm(x: Tensor) -> Tensor:
    return x.norm(p=1, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)
