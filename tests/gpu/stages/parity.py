"""Stage 2: every implementation in the ladder's table against its eager op, on the device, in bf16 and in fp16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ..context import Context, first_line, is_lost
from ..results import of_kind

TOKENS = {True: 19, False: 1027}  # a dry run's, and a card's; odd, so that no tile fits
ORDER = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def run(context: Context) -> None:
    done = [_key(record) for record in of_kind(context.results.last_run(), "parity")]
    for dtype in (torch.bfloat16, torch.float16):
        for name, backend, exact, load in implementations(context, dtype):
            if not context.dry and (name, backend, exact, dtype_name(dtype)) in done:
                continue
            if context.deadline.left < 10:
                context.skip("the rest of kernel parity", "its time is over")
                return
            one(context, dtype, name, backend, exact, load)


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("op", "backend", "exact", "dtype"))


def dtype_name(dtype: torch.dtype) -> str:
    """As "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def implementations(
    context: Context, dtype: torch.dtype
) -> Iterator[tuple[str, str, bool, Callable[[], Callable[..., Any]]]]:
    """Op, backend, profile and how to load it. In a dry run the eager ops stand for them all."""
    from klein9b.kernels.machine import machine_of
    from klein9b.kernels.rungs import RUNGS

    machine = machine_of(context.device, dtype)
    for rung in RUNGS:
        if context.dry:
            yield rung.op, "eager", True, partial(twin, rung.op)
            continue
        why = rung.needs.why_not(machine)
        if why:
            context.skip(f"{rung.op} on {rung.backend} in {dtype}", f"{rung.backend} {why}")
            continue
        for exact in (True, False) if rung.backend == "triton" else (False,):
            yield rung.op, rung.backend, exact, partial(rung.load, exact)


def one(
    context: Context, dtype: torch.dtype, name: str, backend: str, exact: bool, load: Callable[[], Callable[..., Any]]
) -> None:
    """Compared, written down and said; an error is a result too, unless it took the device with it."""
    said = f"{name} on {backend}, {'exact' if exact else 'fast'}, {str(dtype).removeprefix('torch.')}"
    about = {"op": name, "backend": backend, "exact": exact, "dtype": dtype_name(dtype)}
    try:
        found = compared(name, load(), context.device, dtype, TOKENS[context.dry])
    except Exception as error:
        context.add("parity", **about, error=first_line(error))
        context.say(f"  {said}: FAILED, {first_line(error)}")
        if is_lost(error):
            raise
        return
    context.add("parity", **about, **found)
    context.say(f"  {said}: {found['equal']:.4%} equal bits, {found['places']} last places at most")


@torch.no_grad()
def compared(
    name: str, op: Callable[..., Any], device: torch.device, dtype: torch.dtype, tokens: int
) -> dict[str, Any]:
    """The share of equal bits, the most last places (int8: levels) between two values, and the relative error."""
    from klein9b.kernels import samples

    with mock.patch.object(samples, "TOKENS", tokens):
        case = samples.CASES[name]
        wanted, got = (case.run(one, samples.Samples(device, dtype)) for one in (twin(name), op))
    pairs = [pair for one, other in zip(got, wanted, strict=True) for pair in parts(one, other)]
    values = sum(one.numel() for one, _ in pairs)
    equal = sum(int((bits(one) == bits(other)).sum()) for one, other in pairs)
    error = max(relative(one, other) for one, other in pairs)
    return {"equal": equal / values, "places": max(places(*pair) for pair in pairs), "error": error, "values": values}


def parts(got: Any, wanted: Any) -> list[tuple[Tensor, Tensor]]:
    if isinstance(wanted, Tensor):
        return [(got, wanted)]
    return [(got.levels, wanted.levels), (got.scale, wanted.scale)]


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(ORDER[x.element_size()])


def places(got: Tensor, wanted: Tensor) -> int:
    """How many representable numbers apart the two farthest are."""
    if got.dtype == torch.int8:
        return int((got.int() - wanted.int()).abs().max())
    if not (torch.isfinite(got.float()).all() and torch.isfinite(wanted.float()).all()):
        return 2**31
    return int((ordered(got) - ordered(wanted)).abs().max())


def ordered(x: Tensor) -> Tensor:
    """Neighbouring numbers become neighbouring integers, 0 and -0 the same."""
    whole = bits(x).long()
    lowest = -(1 << (8 * x.element_size() - 1))
    return torch.where(whole < 0, lowest - whole, whole)


def relative(got: Tensor, wanted: Tensor) -> float:
    difference = (got.double() - wanted.double()).norm()
    return float(difference / wanted.double().norm().clamp(min=1e-30))


def twin(name: str) -> Callable[..., Any]:
    """The eager op."""
    from klein9b.kernels.samples import CASES

    return CASES[name].eager
