"""Layer norm without weights, then scale and shift by the timestep."""

from __future__ import annotations

from torch import Tensor, addcmul
from torch.nn.functional import layer_norm

from ..shapes import check_modulation

EPS = 1e-6


def layer_norm_modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-6) * (1 + scale) + shift, mean and variance over the last dimension.

    Args:
        x: (batch, tokens, hidden) in any floating dtype, which the result has too.
        scale, shift: (batch or 1, 1, hidden), of x's dtype.

    Raises:
        ValueError: scale or shift is of another shape.
    """
    check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
    return addcmul(shift, layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)
