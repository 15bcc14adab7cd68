"""One implementation of every op that Klein's blocks are written over; `kernels/eager` says what each computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .eager.append_kv import KeyValue
from .eager.gated_residual import gated_residual_
from .eager.gated_residual_norm import gated_residual_norm_
from .eager.heads_norm_rope import RmsNorm, heads_norm_rope
from .eager.layer_norm_modulate import layer_norm_modulate
from .eager.swiglu_concat import swiglu_concat
from .eager.write_kv import PackedKeyValue, write_kv_, write_kv_int8_
from .fp8 import Fp8Input, Fp8Rows
from .int8 import Int8Rows, Int8Weight

How = TypeVar("How")
Rows = TypeVar("Rows")


class HeadsNormRope(Protocol):
    """As `eager.heads_norm_rope`, whose rotation whoever makes the ops has chosen."""

    def __call__(
        self,
        packed: Tensor,
        norms: Sequence[RmsNorm | None],
        freqs: Tensor,
        heads: int,
        *,
        out: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class QuantisingOps(Generic[How, Rows]):
    """The ops before a linear layer that make its input what it is multiplied in; the last argument says how.

    Attributes: as `eager.layer_norm_modulate`, `eager.gated_residual_norm_` and `eager.swiglu_concat`.
    """

    layer_norm_modulate: Callable[[Tensor, Tensor, Tensor, How], Rows]
    gated_residual_norm_: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, How], Rows]
    swiglu_concat: Callable[[Tensor, Tensor | None, How], Rows]


@dataclass(frozen=True)
class Int8Ops(QuantisingOps[int, Int8Rows]):
    """For linear layers whose matrix is int8; the last argument is the rotation.

    Attributes:
        linear: as `eager.int8_linear`.
    """

    linear: Callable[[Int8Rows, Int8Weight, torch.dtype], Tensor]


class Fp8Ops(QuantisingOps[Fp8Input, Fp8Rows]):
    """For linear layers whose matrix is float8; whoever runs the model multiplies."""


@dataclass(frozen=True)
class Ops:
    """Every op by its name in `kernels/eager`.

    Attributes:
        int8, fp8: None where a linear layer makes its input so itself.
    """

    layer_norm_modulate: Callable[[Tensor, Tensor, Tensor], Tensor] = field(default=layer_norm_modulate)
    gated_residual_: Callable[[Tensor, Tensor, Tensor], Tensor] = field(default=gated_residual_)
    gated_residual_norm_: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] = field(
        default=gated_residual_norm_
    )
    heads_norm_rope: HeadsNormRope = field(default=heads_norm_rope)
    swiglu_concat: Callable[[Tensor, Tensor | None], Tensor] = field(default=swiglu_concat)
    write_kv_: Callable[[Tensor, Tensor, KeyValue], None] = field(default=write_kv_)
    write_kv_int8_: Callable[[Tensor, Tensor, PackedKeyValue], None] = field(default=write_kv_int8_)
    int8: Int8Ops | None = None
    fp8: Fp8Ops | None = None
