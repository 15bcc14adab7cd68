"""DoRA: a weight cut into magnitudes and directions, of which a LoRA changes the directions."""

from __future__ import annotations

from torch import Tensor


def decomposed(merged: Tensor, magnitude: Tensor) -> Tensor:
    """m (W + dW) / ||W + dW||, after Liu et al., 2024, DoRA (https://arxiv.org/abs/2402.09353), equation 5.

    Args:
        merged: W + dW (rows, columns).
        magnitude: (rows, 1) with norms along rows, as PEFT trains it, or (1, columns) with norms along columns.
    """
    along = 1 if magnitude.shape[1] == 1 else 0
    norm = merged.norm(dim=along, keepdim=True).clamp(min=1e-12)
    return merged * (magnitude.to(merged) / norm)
