"""One cell of the matrix measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .cells import AGAIN, BASE, COMPILED, STEPS, STOCK, Cell, Way
from .context import first_line, is_lost
from .scale import Scale
from .steps import runs_of
from .timing import Timed, interleaved, ratio_noise
from .ways import way
from .weights import Models

Row = dict[str, Any]


class CellBench:
    """Makes a cell's ways, warms them up, times them. A way that fails is left out, and why is told.

    Attributes:
        wall: seconds that one run took, everything around its steps included.
    """

    def __init__(self, cell: Cell, models: Models, scale: Scale, *, dry: bool) -> None:
        self.cell = cell
        self.scale = scale
        self.runs = runs_of(cell, scale, models.device)
        self.failed: dict[Way, str] = {}
        self.left: dict[Way, str] = {}
        self.compiling: dict[Way, float] = {}
        self.notes: list[str] = []
        self.wall = 0.0
        self.models = models
        self.ways: dict[Way, Any] = {}
        for one in cell.ways:
            self._try(one, partial(self._make, one, dry))

    def _make(self, one: Way, dry: bool) -> None:
        precision, kind = one
        model = self.models.get(precision, self.cell.precisions)
        self.ways[one] = way(model, kind, dry=dry, told=partial(self._told, one), hear=self.notes.append)

    def _told(self, one: Way, report: Any) -> None:
        """What Klein 9B Accelerate left to the host: a way that is not what its name says must say so."""
        said = "; ".join(f"{what}: {why}" for what, why in report.left.items())
        self.left[one] = said or ("" if report.accelerated else "no block was accelerated")

    def _try(self, one: Way, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            if is_lost(error):
                raise
            self.failed[one] = first_line(error)
            self.ways.pop(one, None)

    def warm_up(self) -> None:
        """Two runs each: the second finds everything compiled and references kept, and its wall is a fair one."""
        for one in list(self.ways):
            self._try(one, partial(self._warm_up, one))

    def _warm_up(self, one: Way) -> None:
        took = self._wall_of(one)
        self.wall = self._wall_of(one)
        if one[1] == COMPILED:
            self.compiling[one] = max(0.0, took - self.wall)

    def _wall_of(self, one: Way) -> float:
        began = time.monotonic()
        self.runs.visit(self.ways[one])
        return time.monotonic() - began

    def measure(self, rounds: int) -> Row:
        timed = interleaved({one: partial(self.runs.visit, model) for one, model in self.ways.items()}, rounds)
        stock, again = (next((timed[one] for one in timed if one[1] == kind), None) for kind in (STOCK, AGAIN))
        return {
            "cell": self.cell.name,
            "side": self.cell.side,
            "references": self.cell.references,
            "mode": self.cell.mode,
            "rounds": rounds,
            "noise": None if stock is None or again is None else ratio_noise(stock, again),
            "flops": self.scale.flops(self.cell.side, self.cell.references),
            "ways": [self._row(one, times) for one, times in timed.items()],
            "notes": list(dict.fromkeys(self.notes)),
            "failed": [{"precision": p, "way": kind, "why": why} for (p, kind), why in self.failed.items()],
        }

    def _row(self, one: Way, timed: Timed) -> Row:
        precision, kind = one
        return {
            "precision": precision,
            "way": kind,
            "picture": picture_seconds(timed, self.cell.mode),
            "fastest": timed.fastest,
            "first": timed.first,
            "step": timed.later,
            "spread": timed.spread,
            "steps timed": sum(len(visit.seconds) for visit in timed.visits),
            "peak": timed.peak,
            "compiling": self.compiling.get(one),
            "left to the host": self.left.get(one, ""),
            "streamed": streamed(self.ways[one]),
        }


def picture_seconds(timed: Timed, mode: str) -> float:
    """Of all steps of a picture. A base run is its first step and 19 times the median of the others."""
    return timed.first + (STEPS[mode] - 1) * timed.later if mode == BASE else timed.run


def streamed(model: Any) -> int:
    """Bytes of weights that did not fit on the device, so that every step brings them."""
    return max(0, int(model.model_size() - model.loaded_size()))
