"""Rotary position embedding of neighbouring features."""

from __future__ import annotations

from torch import Tensor, addcmul

from ..shapes import check_rope


def rope(x: Tensor, freqs: Tensor) -> Tensor:
    """Turns each pair of features by its position's angle: (x0, x1) -> (c x0 - s x1, s x0 + c x1).

    Args:
        x: (batch, heads, tokens, head_dim) in any floating dtype, which the result has too.
        freqs: (batch or 1, 1, tokens, head_dim / 2, 2, 2), the matrices ((c, -s), (s, c)) in float32, the dtype it
            computes in.

    Raises:
        ValueError: freqs is of another shape, or head_dim is odd.
    """
    check_rope(tuple(x.shape), freqs)
    pairs = x.to(freqs.dtype).unflatten(-1, (-1, 1, 2))
    turned = addcmul(freqs[..., 0] * pairs[..., 0], freqs[..., 1], pairs[..., 1])
    return turned.flatten(-2).type_as(x)
