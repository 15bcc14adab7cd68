"""Packed projections to normed, turned heads in one pass; comfy_kitchen's cannot write where attention reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eager.heads_norm_rope import RmsNorm
from ..shapes import check_heads, check_rope
from .launch import batch_stride, block_of, check_tensors, launch
from .rows import rounded

# How many parts a launch takes: queries, keys and values.
SLOTS = 3
LEFT, COPIED, NORMED = 0, 1, 2
WARPS = 4


def heads_norm_rope(
    packed: Tensor,
    norms: Sequence[RmsNorm | None],
    freqs: Tensor,
    heads: int,
    *,
    out: Sequence[Tensor | None] | None = None,
    exact: bool = True,
) -> tuple[Tensor, ...]:
    """As `eager.heads_norm_rope`, every part in one launch.

    Args:
        exact: round the normed heads as the eager op does; False rounds the turned ones alone.

    Raises:
        ValueError: as there, of `rope` too; or there are more than three parts, dtypes differ, features are not
            neighbours in memory, freqs is not float32, or a tensor of out is of another shape.
    """
    _check(packed, norms, freqs, heads, out)
    views = packed.unflatten(-1, (len(norms), heads, -1)).permute(2, 0, 3, 1, 4)
    targets = [None] * len(norms) if out is None else out
    made = tuple(_target(view, norm, target) for view, norm, target in zip(views, norms, targets, strict=True))
    modes = [
        NORMED if norm else LEFT if target is None else COPIED for norm, target in zip(norms, targets, strict=True)
    ]
    slots = [*zip(made, norms, modes, strict=True), *[(packed[:0], None, LEFT)] * (SLOTS - len(norms))]
    _launch(packed, freqs, views.shape, slots, exact)
    return made


def _check(
    packed: Tensor,
    norms: Sequence[RmsNorm | None],
    freqs: Tensor,
    heads: int,
    out: Sequence[Tensor | None] | None,
) -> None:
    check_heads(packed, len(norms), heads, freqs)
    shape = (packed.shape[0], heads, packed.shape[1], packed.shape[2] // len(norms) // heads)
    check_rope(shape, freqs)
    if len(norms) > SLOTS:
        raise ValueError(f"heads_norm_rope: Triton's kernel takes up to {SLOTS} parts, got {len(norms)}.")
    if freqs.dtype != torch.float32 or (freqs.numel() and not freqs[0, 0, 0].is_contiguous()):
        raise ValueError(
            f"heads_norm_rope: freqs must be float32 with contiguous matrices, got {freqs.dtype} of {freqs.stride()}."
        )
    given = {f"out[{part}]": target for part, target in enumerate(out or ()) if target is not None}
    check_tensors("heads_norm_rope", packed=packed, **given)
    for name, target in given.items():
        if target.shape != shape:
            raise ValueError(f"heads_norm_rope: {name} must be {list(shape)}, got {list(target.shape)}.")


def _target(view: Tensor, norm: RmsNorm | None, target: Tensor | None) -> Tensor:
    """Where a part goes, or the view that is left where it is."""
    if target is not None or norm is None:
        return view if target is None else target
    return torch.empty(view.shape, dtype=view.dtype, device=view.device)


def _launch(
    packed: Tensor,
    freqs: Tensor,
    shape: torch.Size,
    slots: Sequence[tuple[Tensor, RmsNorm | None, int]],
    exact: bool,
) -> None:
    _, batch, heads, tokens, head_dim = shape
    modes = {f"mode{part}": mode for part, (_, _, mode) in enumerate(slots)}
    launch(
        _all_parts,
        (tokens if any(modes.values()) else 0, batch),
        *(packed, freqs, *(target for target, _, _ in slots)),
        *(packed if norm is None else norm.weight.contiguous() for _, norm, _ in slots),
        *(_epsilon(norm) for _, norm, _ in slots),
        *(packed.stride(0), packed.stride(1), batch_stride(freqs), freqs.stride(2)),
        *(stride for target, _, _ in slots for stride in target.stride()[:3]),
        **modes,
        heads=heads,
        head_dim=head_dim,
        block_heads=block_of(heads),
        block_dim=block_of(head_dim),
        warps=WARPS,
        exact=exact,
    )


def _epsilon(norm: RmsNorm | None) -> float:
    """torch computes the norm of any of these dtypes in float32, on CUDA too, and takes that one's epsilon for None."""
    if norm is None or norm.eps is None:
        return torch.finfo(torch.float32).eps
    return norm.eps


@triton.jit
def _turned(
    x: tl.tensor,
    table: tl.tensor,
    columns: tl.tensor,
    inside: tl.tensor,
    weight: tl.tensor,
    eps: tl.tensor,
    head_dim: tl.constexpr,
    block_heads: tl.constexpr,
    block_dim: tl.constexpr,
    dtype: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    """Heads (block_heads, block_dim), 0 outside: normed, then turned by the token's matrices in table."""
    pairs: tl.constexpr = block_dim // 2
    power = tl.sum(x * x, axis=1) / head_dim
    factor = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    x = rounded(factor[None, :] * (x * tl.rsqrt(power + eps)[:, None]), dtype, exact)
    by_first, by_second = tl.split(tl.reshape(table, [pairs, 2, 2]))
    first0, first1 = tl.split(by_first)
    second0, second1 = tl.split(by_second)
    x0, x1 = tl.split(tl.reshape(x, [block_heads, pairs, 2]))
    turned0 = first0[None, :] * x0 + second0[None, :] * x1
    turned1 = first1[None, :] * x0 + second1[None, :] * x1
    return tl.reshape(tl.join(turned0, turned1), [block_heads, block_dim])


@triton.jit
def _one_part(
    row: tl.tensor,
    table: tl.tensor,
    target: tl.tensor,
    head_stride: tl.tensor,
    weight: tl.tensor,
    eps: tl.tensor,
    mode: tl.constexpr,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_heads: tl.constexpr,
    block_dim: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    """One token of one part; row and target point at its first head."""
    if mode > 0:
        head, columns = tl.arange(0, block_heads), tl.arange(0, block_dim)
        inside = (head < heads)[:, None] & (columns < head_dim)[None, :]
        x = tl.load(row + head[:, None] * head_dim + columns[None, :], mask=inside, other=0.0)
        if mode == 2:
            x = _turned(
                x.to(tl.float32), table, columns, columns < head_dim, weight, eps,
                head_dim, block_heads, block_dim, x.dtype, exact,
            )  # fmt: skip
        where = target + head.to(tl.int64)[:, None] * head_stride + columns[None, :]
        tl.store(where, x.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _all_parts(
    packed: tl.tensor,
    freqs: tl.tensor,
    target0: tl.tensor,
    target1: tl.tensor,
    target2: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    weight2: tl.tensor,
    eps0: tl.tensor,
    eps1: tl.tensor,
    eps2: tl.tensor,
    packed_batch: tl.tensor,
    packed_token: tl.tensor,
    freqs_batch: tl.tensor,
    freqs_token: tl.tensor,
    batch0: tl.tensor,
    head0: tl.tensor,
    token0: tl.tensor,
    batch1: tl.tensor,
    head1: tl.tensor,
    token1: tl.tensor,
    batch2: tl.tensor,
    head2: tl.tensor,
    token2: tl.tensor,
    mode0: tl.constexpr,
    mode1: tl.constexpr,
    mode2: tl.constexpr,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_heads: tl.constexpr,
    block_dim: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    row = packed + batch * packed_batch + token * packed_token
    places = tl.arange(0, 2 * block_dim)
    table = tl.load(freqs + batch * freqs_batch + token * freqs_token + places, mask=places < 2 * head_dim, other=0.0)
    part: tl.constexpr = heads * head_dim
    target = target0 + batch * batch0 + token * token0
    _one_part(row, table, target, head0, weight0, eps0, mode0, heads, head_dim, block_heads, block_dim, exact)
    target = target1 + batch * batch1 + token * token1
    _one_part(row + part, table, target, head1, weight1, eps1, mode1, heads, head_dim, block_heads, block_dim, exact)
    target = target2 + batch * batch2 + token * token2
    _one_part(
        row + 2 * part, table, target, head2, weight2, eps2, mode2, heads, head_dim, block_heads, block_dim, exact
    )
