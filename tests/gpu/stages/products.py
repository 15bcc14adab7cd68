"""Stage 6: the rate that plain matrix products of the same shapes reach here, which utilisation is a part of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..cells import BF16, FP8, INT8, PRECISIONS
from ..context import Context, first_line, is_lost
from ..scale import Product
from ..timing import clock_for, quantile

# More matrices of a shape than a card's cache holds, in turn, as a model has them.
CACHED = 256 * 2**20
ROUNDS = 20


def run(context: Context) -> None:
    side = context.scale.sides[0]
    shapes = list(context.scale.products(side, 0))
    for precision in PRECISIONS:
        if context.deadline.left < 5:
            context.skip(f"plain products in {precision}", "its time is over")
            continue
        try:
            _one(context, precision, shapes)
        except Exception as error:
            context.skip(f"plain products in {precision}", first_line(error))
            if is_lost(error):
                raise


def _one(context: Context, precision: str, shapes: list[Product]) -> None:
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        seconds = timed(context, precision, shape)
        rows.append({**vars(shape), "seconds": seconds, "rate": shape.flops / seconds})
    flops = sum(shape.flops * shape.count for shape in shapes)
    total = sum(row["seconds"] * row["count"] for row in rows)
    context.add("products", precision=precision, rate=flops / total, seconds=total, flops=flops, shapes=rows)
    context.say(f"  {precision}: {flops / total / 1e12:.1f} TF a second over all shapes, {total * 1e3:.2f} ms a step")


@torch.inference_mode()
def timed(context: Context, precision: str, shape: Product) -> float:
    """Median seconds of one product."""
    copies = 1 if context.dry else max(1, math.ceil(CACHED / (shape.features * shape.out)))
    work = [product(precision, shape, context) for _ in range(min(copies, 8))]
    clock = clock_for(context.device)
    for one in work * 3:
        one()
    clock.begin()
    for turn in range(2 if context.dry else ROUNDS):
        work[turn % len(work)]()
        clock.lap()
    return quantile(sorted(clock.seconds()), 0.5)


def product(precision: str, shape: Product, context: Context) -> Callable[[], Tensor]:
    """A product with operands of its own, normal random numbers in the precision."""
    device = context.device
    rows = torch.randn(shape.rows, shape.features, device=device, dtype=context.dtype)
    matrix = torch.randn(shape.out, shape.features, device=device, dtype=context.dtype)
    if precision == BF16:
        return lambda: torch.nn.functional.linear(rows, matrix)
    if precision == INT8:
        levels, weights = ((one * 30).clamp(-127, 127).to(torch.int8) for one in (rows, matrix))
        return lambda: torch._int_mm(levels, weights.t())
    assert precision == FP8
    low, weights = rows.to(torch.float8_e4m3fn), matrix.to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(low, weights.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
