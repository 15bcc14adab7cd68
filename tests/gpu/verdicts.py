"""The targets, and what a run's records say about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .cells import BF16, COMPILED, DISTILLED, FAST, FP8, INT8, KV, STOCK, WARM, counted
from .results import of_kind

Record = dict[str, Any]
NOT_MEASURED, MET, MISSED = "not measured", "met", "MISSED"
OWN_RATE = {BF16: 1.10, INT8: 1.20, FP8: 1.20}
UTILISATION = {BF16: 0.75, INT8: 0.60, FP8: 0.60}
WARM_RATE = {1: 1.15, 2: 1.35, 4: 1.80}
PEAK_SAVED = 0.40


@dataclass(frozen=True)
class Verdict:
    """One target.

    Attributes:
        value: what was measured, None where nothing was.
        noise: how far two times the same were apart in that cell.
        because: of a missed one, where the time is.
    """

    target: str
    wanted: float
    unit: str
    value: float | None
    noise: float | None = None
    because: str = ""

    @property
    def said(self) -> str:
        if self.value is None:
            return NOT_MEASURED
        return MET if self.value >= self.wanted else MISSED


def verdicts(records: list[Record], side: int = 1024) -> Iterator[Verdict]:
    """Every target, whether there is something to say or not."""
    seen = Seen(records, side)
    for precision, wanted in OWN_RATE.items():
        value, noise = seen.rate(0, (precision, STOCK), (precision, FAST))
        because = seen.largest_bucket(precision)
        yield Verdict(f"{precision}, no references: accelerated against stock", wanted, "x", value, noise, because)
    value, noise = seen.rate(0, (BF16, STOCK), (INT8, FAST))
    because = seen.largest_bucket(INT8)
    yield Verdict("int8 accelerated against stock bf16, no references", 1.8, "x", value, noise, because)
    for precision in OWN_RATE:
        value, noise = seen.rate(0, (precision, COMPILED), (precision, FAST))
        because = seen.largest_bucket(precision)
        yield Verdict(f"{precision}: accelerated against TorchCompileModel", 1.0, "x", value, noise, because)
    for references in (0, 2):
        value = seen.peak_saved(references, BF16)
        yield Verdict(f"activation peak saved, bf16, {counted(references)}", PEAK_SAVED, "", value)
    for precision, wanted in UTILISATION.items():
        value = seen.utilisation(precision)
        because = seen.largest_bucket(precision)
        yield Verdict(f"{precision}: rate of a step in parts of plain products'", wanted, "", value, None, because)
    for references, wanted in WARM_RATE.items():
        value, noise = seen.rate(references, (BF16, KV), (BF16, WARM))
        yield Verdict(f"bf16, {counted(references)}: warm cache against FluxKVCache", wanted, "x", value, noise)


class Seen:
    """Looks things up in a run's records, of distilled pictures of one side."""

    def __init__(self, records: list[Record], side: int) -> None:
        cells = of_kind(records, "cell")
        self.cells = [cell for cell in cells if cell["side"] == side and cell["mode"] == DISTILLED]
        self.records = records

    def rate(self, references: int, slow: tuple[str, str], fast: tuple[str, str]) -> tuple[float | None, float | None]:
        """How much faster, of the cell in which both were timed beside each other, and that cell's noise."""
        for cell in self.cells:
            ways = {(way["precision"], way["way"]): way for way in cell["ways"]}
            if cell["references"] == references and slow in ways and fast in ways:
                return ways[slow]["picture"] / ways[fast]["picture"], cell["noise"]
        return None, None

    def peak_saved(self, references: int, precision: str) -> float | None:
        for cell in self.cells:
            ways = {way["way"]: way for way in cell["ways"] if way["precision"] == precision}
            if cell["references"] == references and STOCK in ways and FAST in ways and ways[STOCK]["peak"]:
                return 1 - ways[FAST]["peak"] / ways[STOCK]["peak"]
        return None

    def utilisation(self, precision: str) -> float | None:
        """All FLOP of a step without references over its time, in parts of the plain products' rate."""
        plain = next((one for one in of_kind(self.records, "products") if one["precision"] == precision), None)
        for cell in self.cells:
            for way in cell["ways"] if cell["references"] == 0 and plain else ():
                if (way["precision"], way["way"]) == (precision, FAST):
                    return cell["flops"] / way["step"] / plain["rate"]
        return None

    def largest_bucket(self, precision: str) -> str:
        """Where a step of the accelerated model spends its time."""
        found = [one for one in of_kind(self.records, "buckets") if (one["precision"], one["way"]) == (precision, FAST)]
        if not found:
            return ""
        times = found[0]["ms"]
        ordered = sorted(times, key=lambda name: -times[name])
        whole = sum(times.values())
        return ", ".join(f"{name} {times[name] / whole:.0%}" for name in ordered)
