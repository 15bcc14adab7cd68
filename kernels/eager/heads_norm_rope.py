"""A projection to heads: queries and keys normed and rotated, values as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import rms_norm

from ..shapes import check_heads
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
    out: Sequence[Tensor | None] | None = None,
    rotation: Callable[[Tensor, Tensor], Tensor] = rope,
) -> tuple[Tensor, ...]:
    """Splits packed projections into heads; a part with a norm becomes rope(x / sqrt(mean(x^2) + eps) * weight).

    Args:
        packed: (batch, tokens, parts * heads * head_dim) in any floating dtype, the parts one behind the other; may be
            a view.
        norms: one a part, such as (query's, key's, None) for packed queries, keys and values.
        freqs: the position table of these tokens, see `rope`.
        out: one a part: a (batch, heads, tokens, head_dim) tensor to write it into, which may be a view, or None.
        rotation: stands in for `rope`, with the same formula.

    Returns:
        one (batch, heads, tokens, head_dim) a part, of packed's dtype: what `out` gives for it, else a new one, or a
        view of packed where the part has no norm.

    Raises:
        ValueError: the features do not divide into that many parts and heads, or freqs is not of these tokens.
    """
    check_heads(packed, len(norms), heads, freqs)
    parts = packed.unflatten(-1, (len(norms), heads, -1)).permute(2, 0, 3, 1, 4)
    made = tuple(
        part if norm is None else rotation(_normed(part, norm), freqs) for part, norm in zip(parts, norms, strict=True)
    )
    return made if out is None else tuple(m if o is None else o.copy_(m) for m, o in zip(made, out, strict=True))


def _normed(x: Tensor, norm: RmsNorm) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm.weight, norm.eps).to(x)
