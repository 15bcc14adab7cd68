"""A layer's output, gated by the timestep, added to the stream it was computed from."""

from __future__ import annotations

from torch import Tensor

from ..shapes import check_gated


def gated_residual_(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate * y, written into x, which is returned; the product is rounded to the dtype first.

    Args:
        x, y: (batch, tokens, hidden) in any floating dtype, the same for both; x may be a view.
        gate: (batch or 1, 1, hidden), of x's dtype.

    Raises:
        ValueError: y has another shape than x, or gate does not fit them.
    """
    check_gated(x, y, gate)
    return x.add_(gate * y)
