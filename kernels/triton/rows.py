"""What kernels that hold a row of features share: roundings, norm and modulation, rotation."""

from __future__ import annotations

import triton
import triton.language as tl

EPS = tl.constexpr(1e-6)


@triton.jit
def this_row() -> tl.tensor:
    """Which row of contiguous (batch, tokens, ...) the program of a grid (tokens, batch) has, in int64."""
    return tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)


@triton.jit
def rounded(x: tl.tensor, dtype: tl.constexpr, exact: tl.constexpr) -> tl.tensor:
    """x as it comes back from memory in dtype, if every rounding of the eager op is mirrored."""
    if exact:
        x = x.to(dtype).to(tl.float32)
    return x


@triton.jit
def quotient(x: tl.tensor, y: tl.tensor, exact: tl.constexpr) -> tl.tensor:
    """x / y, rounded as torch rounds it where that counts; Triton's own division is off by up to two places."""
    return tl.div_rn(x, y) if exact else x / y


@triton.jit
def modulated(
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    inside: tl.tensor,
    hidden: tl.constexpr,
    dtype: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    """eager.layer_norm_modulate of a row in float32; 0 outside, where x, scale and shift must be 0."""
    mean = tl.sum(x, axis=0) / hidden
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / hidden
    normed = rounded(centred * tl.rsqrt(variance + EPS), dtype, exact)
    return rounded(shift + normed * rounded(1.0 + scale, dtype, exact), dtype, exact)


@triton.jit
def rotated(x: tl.tensor, stages: tl.constexpr, block: tl.constexpr) -> tl.tensor:
    """eager.rotate of a row in groups of 4 ** stages, in float32, with the two bits of every base-4 digit swapped.

    The matrix of order 4 is that of Sylvester with the sign of feature 3 changed before and after, and rows 1 and 2
    swapped, which `unswapped` makes good. A bit a step: within a group only neighbouring threads of a warp exchange.
    """
    columns = tl.arange(0, block)
    threes = columns & (columns >> 1) & (0x55555555 & ((1 << (2 * stages)) - 1))
    threes ^= threes >> 8
    threes ^= threes >> 4
    odd = ((threes ^ (threes >> 2)) & 1) == 1
    x = tl.where(odd, -x, x)
    second = (tl.arange(0, 2) == 1)[None, :, None]
    for bit in tl.static_range(2 * stages):
        pairs = tl.reshape(x, [block >> (bit + 1), 2, 1 << bit])
        total = tl.sum(pairs, axis=1, keep_dims=True)
        x = tl.reshape(tl.where(second, total - 2.0 * pairs, total), [block])
    return tl.where(odd, -x, x) * (1.0 / (1 << stages))


@triton.jit
def unswapped(x: tl.tensor, stages: tl.constexpr, block: tl.constexpr) -> tl.tensor:
    """What `rotated` made, in order."""
    for digit in tl.static_range(stages):
        bits = tl.reshape(x, [block >> (2 * digit + 2), 2, 2, 1 << (2 * digit)])
        x = tl.reshape(tl.permute(bits, [0, 2, 1, 3]), [block])
    return x
