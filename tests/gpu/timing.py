"""Several ways to do the same thing timed beside each other: in turn and back again, medians beside the noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch


class Clock(Protocol):
    """Marks moments of one visit."""

    def begin(self) -> None: ...
    def lap(self) -> None: ...
    def seconds(self) -> list[float]: ...
    def peak(self) -> int | None: ...


class CudaClock:
    """By the device's own events, so that what the processor does beside it is counted only where the device waits."""

    def begin(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()
        self._events = [_event()]

    def lap(self) -> None:
        self._events.append(_event())

    def seconds(self) -> list[float]:
        """Between the marks."""
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairwise(self._events)]

    def peak(self) -> int | None:
        """Bytes that were allocated at once since the beginning, above what was there then."""
        return torch.cuda.max_memory_allocated() - self._before


class WallClock:
    """For a processor, and with a `now` of one's own for tests."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def begin(self) -> None:
        self._marks = [self._now()]

    def lap(self) -> None:
        self._marks.append(self._now())

    def seconds(self) -> list[float]:
        return [b - a for a, b in pairwise(self._marks)]

    def peak(self) -> int | None:
        return None


def clock_for(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else WallClock()


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@dataclass
class Visit:
    """One run of one way.

    Attributes:
        seconds: of each of its steps.
        peak: bytes above those at its start, None where nobody counts them.
    """

    seconds: list[float]
    peak: int | None = None


@dataclass
class Timed:
    """All visits of one way, in order."""

    visits: list[Visit] = field(default_factory=list)

    @property
    def run(self) -> float:
        """Median seconds of a whole run."""
        return statistics.median(sum(visit.seconds) for visit in self.visits)

    @property
    def fastest(self) -> float:
        """Seconds of the fastest run: what else a machine does only ever adds."""
        return min(sum(visit.seconds) for visit in self.visits)

    @property
    def first(self) -> float:
        """Median seconds of a run's first step."""
        return statistics.median(visit.seconds[0] for visit in self.visits)

    @property
    def later(self) -> float:
        """Median seconds of the others; of the first where it is alone."""
        return statistics.median(seconds for visit in self.visits for seconds in visit.seconds[1:] or visit.seconds)

    @property
    def spread(self) -> float:
        """The middle half of the runs' seconds, as a part of their median."""
        runs = sorted(sum(visit.seconds) for visit in self.visits)
        return (quantile(runs, 0.75) - quantile(runs, 0.25)) / self.run

    @property
    def peak(self) -> int | None:
        peaks = [visit.peak for visit in self.visits if visit.peak is not None]
        return max(peaks, default=None)


def quantile(ordered: list[float], share: float) -> float:
    """By linear interpolation."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def turns(names: list[str], rounds: int) -> Iterator[str]:
    """ABC CBA ABC ...: a drift of the machine's speed falls on all alike."""
    for number in range(rounds):
        yield from names if number % 2 == 0 else reversed(names)


def interleaved(ways: Mapping[str, Callable[[], Visit]], rounds: int) -> dict[str, Timed]:
    """Each way `rounds` times. Whoever calls has warmed them up."""
    timed = {name: Timed() for name in ways}
    for name in turns(list(ways), rounds):
        timed[name].visits.append(ways[name]())
    return timed


def ratio_noise(one: Timed, same: Timed) -> float:
    """How far from 1 the ratio of two medians of the very same thing is."""
    return abs(one.run / same.run - 1)
