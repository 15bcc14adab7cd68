"""An implementation against its eager twin, on the device and in the dtype in which it is to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .fp8 import Fp8Rows
from .int8 import Int8Rows
from .samples import CASES, Case, Samples

# Sums of thousands of numbers in float32, in another order, and a last place or two of exp and rsqrt.
_FLOAT32 = 2.0**-18
# In eager an int8 level's quotient and step have the dtype: in bfloat16 each is a quarter of a level off near 127, and
# the activation is half of one. Who rounds less often differs from that by two levels at most, and measured on a tenth.
_LEVELS = {torch.bfloat16: 2, torch.float16: 1, torch.float32: 1}
_SHARE = {torch.bfloat16: 0.25, torch.float16: 0.05, torch.float32: 0.001}
# A float8 code is 16 to 32 roundings of bfloat16 wide: who rounds less often differs on a twentieth, as measured.
_FP8_SHARE = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 0.001}
_MIRRORED_FP8_SHARE = 0.003
_FP8_SMALLEST_STEP = 2.0**-9
_OF_BYTES = {1: torch.int8, 2: torch.int16, 4: torch.int32}
_MIRRORED_LEVELS, _MIRRORED_SHARE = 1, 0.01
# Of a row's scale, which is one of its activations: where a rounding fell the other way it is a last place off.
_SCALE_ROUNDINGS, _MIRRORED_SCALE_ROUNDINGS = 4, 2


@dataclass(frozen=True)
class Verdict:
    """What a self-check found.

    Attributes:
        passed: whether the implementation may be used.
        exact: whether every bit is equal.
        words: what was found, a sentence without a full stop.
    """

    passed: bool
    exact: bool
    words: str


@dataclass(frozen=True)
class Limits:
    """How far from the twin an implementation may be.

    Attributes:
        roundings: in halves of a last place of the value, or of `terms` where the value is smaller; `rounding` is that
            half for a value of 1.
        levels, share, scale_roundings: of int8 rows, how many levels one may be off, how many of them may be off at
            all, and the roundings of a scale.
        fp8_share: how many float8 codes may differ.
    """

    roundings: int
    rounding: float
    terms: float
    smallest: float
    levels: int
    share: float
    scale_roundings: int
    fp8_share: float

    @property
    def of_scales(self) -> Limits:
        return replace(self, roundings=self.scale_roundings, terms=0.0)


@torch.no_grad()
def self_check(
    name: str,
    op: Callable[..., Any],
    twin: Callable[..., Any],
    device: torch.device,
    dtype: torch.dtype,
    *,
    mirrored: bool,
) -> Verdict:
    """Runs both on the same samples; takes less than 64 MB.

    Args:
        mirrored: the implementation rounds wherever its twin does, so that 8-bit levels agree all but always.

    Raises:
        Exception: whatever the two raise.
    """
    case = CASES[name]
    wanted, got = case.run(twin, Samples(device, dtype)), case.run(op, Samples(device, dtype))
    limits = _limits(case, dtype, mirrored)
    return _worst(_compared(one, other, limits) for one, other in zip(got, wanted, strict=True))


def _limits(case: Case, dtype: torch.dtype, mirrored: bool) -> Limits:
    info = torch.finfo(dtype)
    of_int8 = (
        (_MIRRORED_LEVELS, _MIRRORED_SHARE, _MIRRORED_SCALE_ROUNDINGS)
        if mirrored
        else (_LEVELS[dtype], _SHARE[dtype], _SCALE_ROUNDINGS)
    )
    of_fp8 = _MIRRORED_FP8_SHARE if mirrored else _FP8_SHARE[dtype]
    return Limits(case.roundings, info.eps / 2, case.terms, info.tiny, *of_int8, of_fp8)


def _compared(got: Any, wanted: Tensor | Int8Rows | Fp8Rows, limits: Limits) -> Verdict:
    if isinstance(wanted, Fp8Rows):
        if not isinstance(got, Fp8Rows) or got.dtype != wanted.dtype or not torch.equal(got.scale, wanted.scale):
            return Verdict(False, False, "its rows are not of the scale and dtype asked for")
        return fp8(got.levels, wanted.levels, wanted.scale.item(), limits)
    if isinstance(wanted, Int8Rows):
        if not isinstance(got, Int8Rows) or got.rotation != wanted.rotation:
            return Verdict(False, False, "its rows are not rotated as asked")
        return _worst((level(got.levels, wanted.levels, limits), close(got.scale, wanted.scale, limits.of_scales)))
    return close(got, wanted, limits)


def close(got: Tensor, wanted: Tensor, limits: Limits) -> Verdict:
    """Whether every value is within `roundings` of the wanted one."""
    if odd := _of_another_kind(got, wanted):
        return odd
    off = (got.double() - wanted.double()).abs()
    size = wanted.double().abs().clamp(min=max(limits.terms, limits.smallest))
    most = (off / size).max().item() / limits.rounding
    within = bool((off <= size * (limits.roundings * limits.rounding + _FLOAT32)).all())
    found = (
        f"{_counted(got != wanted, 'values')} differ, by {most:.1f} roundings at most; {limits.roundings} are allowed"
    )
    return Verdict(within, False, found)


def level(got: Tensor, wanted: Tensor, limits: Limits) -> Verdict:
    """Whether int8 levels are nearly the wanted ones."""
    if odd := _of_another_kind(got, wanted):
        return odd
    off = (got.int() - wanted.int()).abs()
    most, share = int(off.max().item()), (off > 0).double().mean().item()
    allowed = f"{limits.levels} on {limits.share:.1%} is allowed"
    found = f"{_counted(off > 0, 'int8 levels')} differ, by {most} at most; {allowed}"
    return Verdict(most <= limits.levels and share <= limits.share, False, found)


def fp8(got: Tensor, wanted: Tensor, scale: float, limits: Limits) -> Verdict:
    """Whether few float8 codes differ, and none by more than a step beyond what `close` allows of its value."""
    if odd := _of_another_kind(got, wanted):
        return odd
    value = wanted.double()
    off = (got.double() - value).abs()
    step = torch.ldexp(torch.ones_like(value), torch.frexp(value).exponent - 4).clamp(min=_FP8_SMALLEST_STEP)
    size = value.abs().clamp(min=max(limits.terms / scale, limits.smallest))
    beyond = (off - step).clamp(min=0) / size
    most, share = beyond.max().item() / limits.rounding, (off != 0).double().mean().item()
    within = bool((beyond <= limits.roundings * limits.rounding + _FLOAT32).all()) and share <= limits.fp8_share
    allowed = f"{limits.roundings} on {limits.fp8_share:.1%} are allowed"
    found = f"{_counted(off != 0, 'float8 codes')} differ, by a step and {most:.1f} roundings at most; {allowed}"
    return Verdict(within, False, found)


def _counted(different: Tensor, things: str) -> str:
    count, of = int(different.sum().item()), different.numel()
    return f"{count} of {of} {things} ({count / of:.1%})"


def _of_another_kind(got: Tensor, wanted: Tensor) -> Verdict | None:
    if not isinstance(got, Tensor) or got.shape != wanted.shape or got.dtype != wanted.dtype:
        kind = f"{got.dtype} {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        return Verdict(False, False, f"it returned {kind}, expected {wanted.dtype} {list(wanted.shape)}")
    return Verdict(True, True, "equal bits") if torch.equal(_bits(got), _bits(wanted)) else None


def _bits(x: Tensor) -> Tensor:
    """0 and -0 are equal numbers."""
    return x.view(_OF_BYTES[x.element_size()])


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The first that did not pass, else the first that is not exact."""
    return reduce(lambda one, other: min(one, other, key=lambda verdict: (verdict.passed, verdict.exact)), verdicts)
