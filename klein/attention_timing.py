"""Which of torch's exact attention backends is the fastest for a shape, found out once on the tensors at hand.

All of them compute softmax(q k^T / sqrt(head_dim)) v and differ in the order of their sums. Which one is fast depends
on the card, the shape, torch and cuDNN: on one card they were seen 1.5 times apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Timer = Callable[[Callable[[], object]], float]

OWN = "ComfyUI's own"
# Milliseconds on clocks that wander: a backend must be so much faster than the host's own to take its place.
WORTH_IT = 0.98
REPETITIONS = 5
MOST_MILLISECONDS = 500.0
# Largest relative error of one head against float32. bfloat16 keeps 8 bits of every probability and of the output.
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}
ROWS = 16


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's attention with its own choice of a backend; all are (batch, heads, tokens, head_dim)."""
    return scaled_dot_product_attention(q, k, v)


def by_backend(backend: SDPBackend) -> Attend:
    """torch's attention with one backend only; it raises RuntimeError where that refuses the tensors."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v)

    return attend


EXACT: Mapping[str, Attend] = {
    "flash": by_backend(SDPBackend.FLASH_ATTENTION),
    "cuDNN": by_backend(SDPBackend.CUDNN_ATTENTION),
    "memory-efficient": by_backend(SDPBackend.EFFICIENT_ATTENTION),
}


def cuda_milliseconds(call: Callable[[], object]) -> float:
    """Between two events on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


@dataclass(frozen=True)
class Shape:
    """What the speed of attention depends on. q: (batch, heads, tokens, head_dim)."""

    q: tuple[int, ...]
    keys: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, q: Tensor, k: Tensor) -> Shape:
        return cls(tuple(q.shape), k.shape[2], q.dtype, q.device)

    def __str__(self) -> str:
        batch, heads, tokens, _ = self.q
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{batch} x {heads} heads, {tokens} queries, {self.keys} keys, {dtype} on {self.device}"


@dataclass(frozen=True)
class Timing:
    """Of one shape.

    Attributes:
        fastest: its name, OWN where no backend is worth a change.
        milliseconds: medians by name.
        left_out: why a backend was not timed, by name.
    """

    fastest: str
    milliseconds: Mapping[str, float]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        by_time = sorted(self.milliseconds.items(), key=lambda one: one[1])
        timed = ", ".join(f"{name} {time:.2f} ms" for name, time in by_time)
        left_out = "".join(f", {name} left out ({why})" for name, why in self.left_out.items())
        return f"{self.fastest} attention runs: {timed}{left_out}"


@dataclass
class FastestAttention:
    """Times each shape once, on its first tensors, and remembers the fastest backend for it.

    Attributes:
        backends: exact ones by name, the preferred first.
        timer: milliseconds of one call on the device.
    """

    backends: Mapping[str, Attend] = field(default_factory=lambda: EXACT)
    timer: Timer = cuda_milliseconds
    timings: dict[Shape, Timing] = field(default_factory=dict)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, own: Attend, tell: Callable[[str], None]) -> Tensor | None:
        """The fastest backend's result; None where the host's own attention is to run.

        Args:
            q, k, v: (batch, heads, tokens, head_dim).
            own: the host's attention, trusted as it is.
            tell: gets one sentence for every shape that is timed.
        """
        shape = Shape.of(q, k)
        if shape not in self.timings:
            if is_recorded(q.device) or not all(map(is_finite, (q, k, v))):
                return None
            self.timings[shape] = self._time(q, k, v, own)
            tell(f"{shape}: {self.timings[shape]}.")
        backend = self.backends.get(self.timings[shape].fastest)
        return None if backend is None else backend(q, k, v)

    def _time(self, q: Tensor, k: Tensor, v: Tensor, own: Attend) -> Timing:
        left_out = {name: why for name, attend in self.backends.items() if (why := unfit_because(attend, q, k, v))}
        fit = {name: attend for name, attend in self.backends.items() if name not in left_out}
        if not fit:
            return Timing(OWN, {}, left_out)
        own(q, k, v)
        times = self._medians({OWN: own, **fit}, q, k, v)
        fastest = min(fit, key=times.__getitem__)
        return Timing(fastest if times[fastest] < WORTH_IT * times[OWN] else OWN, times, left_out)

    def _medians(self, candidates: Mapping[str, Attend], q: Tensor, k: Tensor, v: Tensor) -> dict[str, float]:
        """In turns, so that a clock that changes changes for all."""
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(REPETITIONS):
            for name, attend in candidates.items():
                times[name].append(self.timer(lambda attend=attend: attend(q, k, v)))  # type: ignore[misc]
            if sum(map(sum, times.values())) > MOST_MILLISECONDS:
                break
        return {name: median(each) for name, each in times.items()}


def unfit_because(attend: Attend, q: Tensor, k: Tensor, v: Tensor, tolerance: float | None = None) -> str:
    """Why its result for these tensors cannot be used, empty where it can. Calls it once, which warms it up.

    Args:
        tolerance: largest relative error of a head; by default that of an exact attention in this dtype.
    """
    limit = TOLERANCE.get(q.dtype, 0.0) if tolerance is None else tolerance
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once for every reason why a backend refuses
            out = attend(q, k, v)
        if out.shape != q.shape or out.dtype != q.dtype:
            return f"gives {tuple(out.shape)} in {out.dtype}"
        off = largest_error(out, q, k, v)
    except Exception as error:
        return first_line(error)
    if math.isnan(off):
        return "gives NaN or infinity"
    return "" if off <= limit else f"differs from float32 by {off:.1e}, more than {limit:.0e}"


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def largest_error(out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Of a head, relative, against float32, on rows from the first to the last; NaN where any value is not finite.

    One head at a time, so it needs 8 bytes a key and channel beside the tensors at hand.
    """
    if not is_finite(out):
        return math.nan
    rows = torch.linspace(0, q.shape[2] - 1, min(ROWS, q.shape[2]), device=q.device).long()
    some_out, some_q = out[:, :, rows], q[:, :, rows]
    heads = (tuple(t[:, head] for t in (some_out, some_q, k, v)) for head in range(q.shape[1]))
    return float(torch.stack([_relative_error(*head) for head in heads]).max())


def is_finite(tensor: Tensor) -> bool:
    return bool(tensor.sum(dtype=torch.float32).isfinite())


def _relative_error(out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    wanted = scores.softmax(dim=-1) @ v.float()
    return (out.float() - wanted).norm() / wanted.norm().clamp_min(torch.finfo(torch.float32).tiny)


def is_recorded(device: torch.device) -> bool:
    """Whether calls are being recorded into a CUDA graph, where nothing can be timed or read."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
