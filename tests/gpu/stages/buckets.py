"""Stage 5: where a step's time goes, by kernel, beside the bytes that elementwise work must move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..cells import BF16, DISTILLED, EXACT, FAST, INT8, PRECISIONS, STOCK
from ..context import Context, Overran, first_line, is_lost, limited
from ..steps import Runs
from ..ways import way
from ..weights import Models

GEMM, ATTENTION, COPIES, ELEMENTWISE = "matrix products", "attention", "copies", "elementwise"
# Looked for in this order: an attention kernel of cuDNN may have "gemm" in its name.
WORDS = {
    ATTENTION: ("flash", "fmha", "attention", "sdpa", "attn"),
    GEMM: (
        "gemm", "cutlass", "nvjet", "cublas", "xmma", "matmul", "aten::mm", "aten::addmm", "aten::bmm", "_mm",
        "splitk", "_product", "gemv", "linear",
    ),
    COPIES: ("memcpy", "memset", "direct_copy", "copy_kernel", "aten::copy_", "catarray", "aten::cat"),
}  # fmt: skip
# GB a step at 1024x1024 with no references, counted on the meta device: each elementwise op reads its inputs once and
# writes its outputs once, on chip or not. The stock column is the host's forward with kitchen's rotation.
MODEL_GB = {(BF16, STOCK): 55.7, (INT8, STOCK): 65.2, (BF16, FAST): 25.6, (INT8, FAST): 23.0}
STEPS = 3


@dataclass(frozen=True)
class Span:
    """One kernel on the device, microseconds."""

    name: str
    start: float
    stop: float


def run(context: Context) -> None:
    if context.no_host:
        context.skip("profiler buckets", context.no_host)
        return
    bandwidth = copy_bandwidth(context)
    context.add("bandwidth", bytes_per_second=bandwidth)
    context.say(f"  copies on this card move {bandwidth / 1e9:.0f} GB a second")
    models = Models(context.scale, context.device, context.dtype)
    for precision in PRECISIONS:
        for kind in (FAST, STOCK, EXACT):
            if context.deadline.left < 15:
                context.skip(f"buckets of {precision} {kind}", "its time is over")
                continue
            _one(context, models, precision, kind, bandwidth)


def _one(context: Context, models: Models, precision: str, kind: str, bandwidth: float) -> None:
    try:
        with limited(context.deadline.left):
            runs = Runs(context.scale, context.scale.sides[0], 0, DISTILLED, context.device)
            found = profiled(way(models.get(precision), kind), runs)
    except (Exception, Overran) as error:
        context.skip(f"buckets of {precision} {kind}", first_line(error))
        if is_lost(error):
            raise
        return
    predicted = MODEL_GB.get((precision, kind))
    expected = None if predicted is None or context.dry else predicted * 1e9 / bandwidth * 1e3
    context.add("buckets", precision=precision, way=kind, **found, predicted_elementwise_ms=expected)
    times = ", ".join(f"{name} {value:.2f}" for name, value in found["ms"].items())
    model = "" if expected is None else f"; elementwise and copies by the byte model {expected:.2f}"
    context.say(f"  {precision} {kind}, ms a step: {times}{model}; {found['launches']:.0f} launches")


def profiled(model: Any, runs: Runs) -> dict[str, Any]:
    """Milliseconds a step by bucket, gaps between kernels included, launches a step and the costliest kernels."""
    from torch.profiler import ProfilerActivity, profile

    runs.visit(model)
    cuda = runs.device.type == "cuda"
    profiler = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])
    runs.visit(model, steps=STEPS, around=profiler)
    spans = list(device_spans(profiler) if cuda else processor_spans(profiler))
    return summed(spans, STEPS)


def device_spans(profiler: Any) -> Iterable[Span]:
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            yield Span(event.name, event.time_range.start, event.time_range.end)


def processor_spans(profiler: Any) -> Iterable[Span]:
    """Of every op the part that it did itself, whenever that was."""
    for event in profiler.events():
        if event.name.startswith("aten::") and event.self_cpu_time_total:
            yield Span(event.name, event.time_range.start, event.time_range.start + event.self_cpu_time_total)


def summed(spans: list[Span], steps: int) -> dict[str, Any]:
    """Of the time from the first kernel to the last; gaps are when none was running."""
    if not spans:
        raise RuntimeError("the profiler saw no kernel (the card's counters may be off limits for this user)")
    milliseconds: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for span in spans:
        milliseconds[bucket_of(span.name)] += (span.stop - span.start) / 1e3 / steps
        kernels[span.name] += (span.stop - span.start) / 1e3 / steps
    whole = (max(span.stop for span in spans) - min(span.start for span in spans)) / 1e3 / steps
    milliseconds["gaps"] = max(0.0, whole - busy(spans) / 1e3 / steps)
    top = [{"kernel": name[:120], "ms": value} for name, value in kernels.most_common(12)]
    return {"ms": dict(milliseconds), "launches": len(spans) / steps, "kernels": top}


def bucket_of(name: str) -> str:
    lower = name.lower()
    return next((bucket for bucket, words in WORDS.items() if any(word in lower for word in words)), ELEMENTWISE)


def busy(spans: Iterable[Span]) -> float:
    """Of the time line covered by at least one."""
    covered, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda one: one.start):
        covered += max(0.0, span.stop - max(span.start, until))
        until = max(until, span.stop)
    return covered


def copy_bandwidth(context: Context) -> float:
    """Bytes read and written in a second by a plain copy."""
    from ..timing import clock_for, quantile

    size = 2**22 if context.dry else 2**30
    source = torch.ones(size, dtype=torch.uint8, device=context.device)
    target, clock = torch.empty_like(source), clock_for(context.device)
    for _ in range(3):
        target.copy_(source)
    clock.begin()
    for _ in range(20):
        target.copy_(source)
        clock.lap()
    return 2 * size / quantile(sorted(clock.seconds()), 0.5)
