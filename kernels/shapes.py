"""Checks that several ops share."""

from __future__ import annotations

from torch import Tensor

from .int8 import Int8Rows, Int8Weight


def check_modulation(op: str, x: Tensor, **parts: Tensor) -> None:
    """Every part must be (batch or 1, 1, hidden) for an x of (batch, tokens, hidden).

    Raises:
        ValueError: one is not.
    """
    batch, _, hidden = x.shape
    for name, part in parts.items():
        if tuple(part.shape) not in ((batch, 1, hidden), (1, 1, hidden)):
            raise ValueError(
                f"{op}: {name} must be {[batch, 1, hidden]} or {[1, 1, hidden]} for x {list(x.shape)}, "
                f"got {list(part.shape)}."
            )


def check_rotation(features: int, group: int) -> None:
    """Rotation is of groups of a power of 4 features, see `eager.rotate`.

    Raises:
        ValueError: group is no power of 4, or does not divide features.
    """
    if group < 4 or group.bit_count() != 1 or group.bit_length() % 2 == 0:
        raise ValueError(f"rotate: group must be a power of 4, got {group}.")
    if features % group:
        raise ValueError(f"rotate: features must be a multiple of the group {group}, got {features}.")


def check_gated(x: Tensor, y: Tensor, gate: Tensor) -> None:
    """A layer's output and its gate must fit the stream x.

    Raises:
        ValueError: y has another shape than x, or gate does not fit them.
    """
    if x.shape != y.shape:
        raise ValueError(f"gated_residual_: y must have x's shape {list(x.shape)}, got {list(y.shape)}.")
    check_modulation("gated_residual_", x, gate=gate)


def check_heads(packed: Tensor, parts: int, heads: int, freqs: Tensor) -> None:
    """Packed projections must divide into parts and heads, freqs must be of their tokens.

    Raises:
        ValueError: they do not, or it is not.
    """
    if packed.shape[-1] % (parts * heads):
        raise ValueError(
            f"heads_norm_rope: {packed.shape[-1]} features do not divide into {parts} parts of {heads} heads."
        )
    if freqs.shape[2] != packed.shape[1]:
        raise ValueError(f"heads_norm_rope: freqs has {freqs.shape[2]} tokens, packed has {packed.shape[1]}.")


def check_rope(shape: tuple[int, ...], freqs: Tensor) -> None:
    """A position table for heads of shape (batch, heads, tokens, head_dim).

    Raises:
        ValueError: freqs is of another shape, or head_dim is odd.
    """
    batch, _, tokens, head_dim = shape
    if head_dim % 2:
        raise ValueError(f"rope: heads must be of pairs of features, got a head_dim of {head_dim}.")
    table = (1, tokens, head_dim // 2, 2, 2)
    if freqs.shape[0] not in (1, batch) or tuple(freqs.shape[1:]) != table:
        raise ValueError(f"rope: freqs must be {[batch, *table]} or {[1, *table]}, got {list(freqs.shape)}.")


def check_swiglu(mlp: Tensor, attended: Tensor | None) -> None:
    """An MLP's two halves, and attention's output of the same tokens.

    Raises:
        ValueError: mlp has an odd number of features, or attended other tokens.
    """
    if mlp.shape[-1] % 2:
        raise ValueError(f"swiglu_concat: mlp must have two halves, got {mlp.shape[-1]} features.")
    if attended is not None and attended.shape[:-1] != mlp.shape[:-1]:
        raise ValueError(
            f"swiglu_concat: attended must be of mlp's {list(mlp.shape[:-1])} tokens, got {list(attended.shape[:-1])}."
        )


def check_int8_linear(rows: Int8Rows, weight: Int8Weight) -> None:
    """Int8 activations must be of the matrix they meet.

    Raises:
        ValueError: activations and matrix were rotated differently, have other features, or a scale is missing.
    """
    if rows.rotation != weight.rotation:
        raise ValueError(
            f"int8_linear: the activations are rotated by {rows.rotation} features, the matrix by {weight.rotation}: "
            "they must be rotated alike."
        )
    features = rows.levels.shape[-1]
    if weight.levels.shape[1] != features:
        raise ValueError(
            f"int8_linear: the matrix takes {weight.levels.shape[1]} features, the activations have {features}."
        )
    wide, scales = weight.levels.shape[0], weight.scale.numel()
    if scales not in (1, wide):
        raise ValueError(f"int8_linear: the matrix has {wide} rows and {scales} scales: expected one a row, or one.")


def check_appended(op: str, target: Tensor, source: Tensor) -> None:
    """A source must be of the target's shape, but for a batch of one.

    Raises:
        ValueError: it is not.
    """
    batch, *shape = target.shape
    if source.shape[0] not in (1, batch) or list(source.shape[1:]) != shape:
        raise ValueError(f"{op}: expected {[batch, *shape]} or {[1, *shape]}, got {list(source.shape)}.")
