"""A projection to heads: queries and keys normed and rotated, values as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import rms_norm

from .rope import rope


@dataclass(frozen=True)
class RmsNorm:
    """The norm of one part's heads.

    Attributes:
        weight: (head_dim,).
        eps: added to the mean square; None leaves it to torch, the machine epsilon of the dtype it computes in.
    """

    weight: Tensor
    eps: float | None = None


def heads_norm_rope(
    packed: Tensor,
    norms: Sequence[RmsNorm | None],
    freqs: Tensor,
    heads: int,
    *,
    rotation: Callable[[Tensor, Tensor], Tensor] = rope,
) -> tuple[Tensor, ...]:
    """Splits packed projections into heads; a part with a norm becomes rope(x / sqrt(mean(x^2) + eps) * weight).

    Args:
        packed: (batch, tokens, parts * heads * head_dim) in any floating dtype, the parts one behind the other; may be
            a view.
        norms: one a part, such as (query's, key's, None) for packed queries, keys and values.
        freqs: the position table of these tokens, see `rope`.
        rotation: stands in for `rope`, with the same formula.

    Returns:
        one (batch, heads, tokens, head_dim) a part, of packed's dtype. A part without a norm is a view of packed.

    Raises:
        ValueError: the features do not divide into that many parts and heads, or freqs is not of these tokens.
    """
    if packed.shape[-1] % (len(norms) * heads):
        raise ValueError(
            f"heads_norm_rope: {packed.shape[-1]} features do not divide into {len(norms)} parts of {heads} heads."
        )
    if freqs.shape[2] != packed.shape[1]:
        raise ValueError(f"heads_norm_rope: freqs has {freqs.shape[2]} tokens, packed has {packed.shape[1]}.")
    parts = packed.unflatten(-1, (len(norms), heads, -1)).permute(2, 0, 3, 1, 4)
    return tuple(
        part if norm is None else rotation(_normed(part, norm), freqs) for part, norm in zip(parts, norms, strict=True)
    )


def _normed(x: Tensor, norm: RmsNorm) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm.weight, norm.eps).to(x)
