"""A layer's output, gated by the timestep, added to the stream it was computed from."""

from __future__ import annotations

from torch import Tensor

from ..shapes import check_modulation


def gated_residual_(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate * y, written into x, which is returned; the product is rounded to the dtype first.

    Args:
        x, y: (batch, tokens, hidden) in any floating dtype, the same for both; x may be a view.
        gate: (batch or 1, 1, hidden), of x's dtype.

    Raises:
        ValueError: y has another shape than x, or gate does not fit them.
    """
    if x.shape != y.shape:
        raise ValueError(f"gated_residual_: y must have x's shape {list(x.shape)}, got {list(y.shape)}.")
    check_modulation("gated_residual_", x, gate=gate)
    return x.add_(gate * y)
