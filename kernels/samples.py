"""What every op is tried on: few tokens of Klein's real widths, with outliers, in views as the blocks have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .eager.gated_residual import gated_residual_
from .eager.gated_residual_norm import gated_residual_norm_, gated_residual_norm_fp8_, gated_residual_norm_int8_
from .eager.heads_norm_rope import RmsNorm, heads_norm_rope
from .eager.int8_linear import int8_linear
from .eager.int8_rows import int8_rows
from .eager.kv_int8 import pack_kv_int8
from .eager.layer_norm_modulate import layer_norm_modulate, layer_norm_modulate_fp8, layer_norm_modulate_int8
from .eager.swiglu_concat import swiglu_concat, swiglu_concat_fp8, swiglu_concat_int8
from .eager.write_kv import write_kv_, write_kv_int8_
from .fp8 import Fp8Input, Fp8Rows
from .int8 import Int8Rows, Int8Weight

Outcome = tuple[Tensor | Int8Rows | Fp8Rows, ...]

# An int8 product wants more than 16 rows on a GPU; an odd number of tokens fits no tile.
BATCH, TOKENS, BEFORE = 2, 19, 3
HEADS, HEAD_DIM, MLP = 32, 128, 12288
HIDDEN = HEADS * HEAD_DIM
OUT_FEATURES = 512
# So many times the rows: a product has other kernels for hundreds than for tens.
MORE = 13
ROTATIONS = (256, 0)
FP8_SCALE = 0.05  # outliers are beyond 448 of it
_SEED, _OUTLIER, _EVERY, _THETA = 0, 20.0, 997, 2000.0


class Samples:
    """The same numbers whenever it is made anew, on every device. The global random numbers are left alone."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator(device="cpu").manual_seed(_SEED)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(shape, generator=self._generator, device="cpu", dtype=torch.float32)
        return drawn.mul_(scale).to(self.device, self.dtype)

    def stream(self, features: int) -> Tensor:
        """(batch, tokens before and its own, features), of which a few features are far out."""
        tokens = self.normal(BATCH, BEFORE + TOKENS, features)
        tokens[..., 5::_EVERY] *= _OUTLIER
        return tokens

    def vector(self, batch: int = BATCH) -> Tensor:
        """A scale, shift or gate (batch, 1, hidden): a part of one longer vector."""
        return self.normal(batch, 1, 3 * HIDDEN, scale=0.3)[..., HIDDEN : 2 * HIDDEN]

    def norm(self) -> RmsNorm:
        return RmsNorm(1 + self.normal(HEAD_DIM, scale=0.3))

    def room(self) -> Tensor:
        """Heads that are to be written behind others."""
        return torch.zeros(BATCH, HEADS, BEFORE + TOKENS, HEAD_DIM, device=self.device, dtype=self.dtype)

    def fp8_inputs(self) -> tuple[Fp8Input, ...]:
        scale = torch.tensor(FP8_SCALE, dtype=torch.float32, device="cpu").to(self.device)
        return Fp8Input(scale, rounded=False), Fp8Input(scale, rounded=True)

    def freqs(self) -> Tensor:
        rates = _THETA ** -torch.linspace(0, 1, HEAD_DIM // 2, dtype=torch.float64, device="cpu")
        angles = torch.arange(TOKENS, dtype=torch.float64, device="cpu")[:, None] * rates
        table = torch.stack((angles.cos(), -angles.sin(), angles.sin(), angles.cos()), dim=-1)
        return table.reshape(1, 1, TOKENS, HEAD_DIM // 2, 2, 2).float().to(self.device)


@dataclass(frozen=True)
class Case:
    """How an op is tried.

    Attributes:
        eager: what it is to compute.
        run: calls it on samples and returns whatever it returned or wrote, with what is around that.
        roundings: how many the two ways of computing it may differ by, see `self_check.close`.
        terms: how large the terms are that may cancel in a result.
    """

    eager: Callable[..., Any]
    run: Callable[[Callable[..., Any], Samples], Outcome]
    roundings: int
    terms: float = 0.0


def _layer_norm_modulate(op: Callable[..., Any], samples: Samples) -> Outcome:
    x = samples.stream(HIDDEN)[:, BEFORE:]
    return (op(x, samples.vector(), samples.vector(batch=1)),)


def _layer_norm_modulate_int8(op: Callable[..., Any], samples: Samples) -> Outcome:
    x, scale, shift = samples.stream(HIDDEN)[:, BEFORE:], samples.vector(), samples.vector(batch=1)
    return tuple(op(x, scale, shift, rotation) for rotation in ROTATIONS)


def _layer_norm_modulate_fp8(op: Callable[..., Any], samples: Samples) -> Outcome:
    x, scale, shift = samples.stream(HIDDEN)[:, BEFORE:], samples.vector(), samples.vector(batch=1)
    return tuple(op(x, scale, shift, wanted) for wanted in samples.fp8_inputs())


def _gated_residual(op: Callable[..., Any], samples: Samples) -> Outcome:
    stream = samples.stream(HIDDEN)
    return op(stream[:, BEFORE:], samples.normal(BATCH, TOKENS, HIDDEN), samples.vector()), stream


def _gated_residual_norm(op: Callable[..., Any], samples: Samples) -> Outcome:
    stream, vectors = samples.stream(HIDDEN), [samples.vector(batch) for batch in (BATCH, 1, BATCH)]
    return op(stream[:, BEFORE:], samples.normal(BATCH, TOKENS, HIDDEN), *vectors), stream


def _gated_residual_norm_int8(op: Callable[..., Any], samples: Samples) -> Outcome:
    def one(rotation: int) -> Outcome:
        return _gated_residual_norm(lambda *arguments: op(*arguments, rotation), samples)

    return tuple(outcome for rotation in ROTATIONS for outcome in one(rotation))


def _gated_residual_norm_fp8(op: Callable[..., Any], samples: Samples) -> Outcome:
    def one(wanted: Fp8Input) -> Outcome:
        return _gated_residual_norm(lambda *arguments: op(*arguments, wanted), samples)

    return tuple(outcome for wanted in samples.fp8_inputs() for outcome in one(wanted))


def _heads_norm_rope(op: Callable[..., Any], samples: Samples) -> Outcome:
    packed = samples.stream(4 * HIDDEN)[:, BEFORE:, : 3 * HIDDEN]
    norms, freqs = (samples.norm(), samples.norm(), None), samples.freqs()
    rooms = tuple(samples.room() for _ in norms)
    written = op(packed, norms, freqs, HEADS, out=tuple(room[:, :, BEFORE:] for room in rooms))
    return (*op(packed, norms, freqs, HEADS), *written, *rooms, packed)


def _swiglu_concat(op: Callable[..., Any], samples: Samples) -> Outcome:
    mlp, attended = samples.stream(HIDDEN + 2 * MLP)[:, BEFORE:, HIDDEN:], samples.normal(BATCH, TOKENS, HIDDEN)
    return op(mlp, attended), op(mlp, None)


def _swiglu_concat_int8(op: Callable[..., Any], samples: Samples) -> Outcome:
    runs = [_swiglu_concat(lambda *given, turn=turn: op(*given, turn), samples) for turn in ROTATIONS]
    return tuple(outcome for run in runs for outcome in run)


def _swiglu_concat_fp8(op: Callable[..., Any], samples: Samples) -> Outcome:
    runs = [_swiglu_concat(lambda *given, one=one: op(*given, one), samples) for one in samples.fp8_inputs()]
    return tuple(outcome for run in runs for outcome in run)


def _write_kv(op: Callable[..., Any], samples: Samples) -> Outcome:
    key, value = samples.room(), samples.room()
    appended = samples.normal(1, HEADS, TOKENS, HEAD_DIM), samples.normal(BATCH, HEADS, TOKENS, HEAD_DIM)
    op(key[:, :, BEFORE:], value[:, :, BEFORE:], appended)
    return key, value


def _write_kv_int8(op: Callable[..., Any], samples: Samples) -> Outcome:
    def packed(key: Tensor, value: Tensor, appended: tuple[Tensor, Tensor]) -> None:
        op(key, value, (*pack_kv_int8(appended[0]), *pack_kv_int8(appended[1])))

    return _write_kv(packed, samples)


def _int8_linear(op: Callable[..., Any], samples: Samples) -> Outcome:
    rows = int8_rows(samples.stream(HIDDEN), ROTATIONS[0])
    matrix = int8_rows(samples.normal(1, OUT_FEATURES, HIDDEN), ROTATIONS[0])
    scales = matrix.scale[0], matrix.scale[0, :1, 0]
    weights = [Int8Weight(matrix.levels[0], scale, ROTATIONS[0]) for scale in scales]
    some = Int8Rows(rows.levels[:1, BEFORE:], rows.scale[:1, BEFORE:], rows.rotation)
    many = Int8Rows(rows.levels.repeat(1, MORE, 1), rows.scale.repeat(1, MORE, 1), rows.rotation)
    return tuple(op(given, weight, samples.dtype) for given in (rows, some, many) for weight in weights)


CASES: dict[str, Case] = {
    "layer_norm_modulate": Case(layer_norm_modulate, _layer_norm_modulate, roundings=5, terms=2.0),
    "gated_residual_": Case(gated_residual_, _gated_residual, roundings=3, terms=1.0),
    "gated_residual_norm_": Case(gated_residual_norm_, _gated_residual_norm, roundings=8, terms=2.0),
    "heads_norm_rope": Case(heads_norm_rope, _heads_norm_rope, roundings=4, terms=2.0),
    "swiglu_concat": Case(swiglu_concat, _swiglu_concat, roundings=4),
    "write_kv_": Case(write_kv_, _write_kv, roundings=0),
    "write_kv_int8_": Case(write_kv_int8_, _write_kv_int8, roundings=1),
    "int8_linear": Case(int8_linear, _int8_linear, roundings=2),
    "layer_norm_modulate_int8": Case(layer_norm_modulate_int8, _layer_norm_modulate_int8, roundings=5),
    "gated_residual_norm_int8_": Case(gated_residual_norm_int8_, _gated_residual_norm_int8, roundings=8, terms=2.0),
    "swiglu_concat_int8": Case(swiglu_concat_int8, _swiglu_concat_int8, roundings=4),
    "layer_norm_modulate_fp8": Case(layer_norm_modulate_fp8, _layer_norm_modulate_fp8, roundings=5, terms=2.0),
    "gated_residual_norm_fp8_": Case(gated_residual_norm_fp8_, _gated_residual_norm_fp8, roundings=8, terms=2.0),
    "swiglu_concat_fp8": Case(swiglu_concat_fp8, _swiglu_concat_fp8, roundings=4),
}
