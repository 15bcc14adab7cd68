"""Stage 3: the matrix, the most telling cells first, as many as there is time for."""

from __future__ import annotations

import time
from typing import Any

from ..bench import CellBench
from ..cells import DISTILLED, EXACT, FAST, PRECISIONS, STEPS, STOCK, Cell, Pace, matrix
from ..context import Context, Overran, first_line, is_lost, limited
from ..errors import errors
from ..plain import plain_cells
from ..results import of_kind
from ..steps import Runs
from ..ways import way
from ..weights import Models

# After so many cells, how far every block is from float32 is asked.
ERRORS_AFTER = 3
STARTED, CELL, ERRORS, WAITING = "started", "cell", "errors", "waiting"


def run(context: Context) -> None:
    if context.no_host:
        context.skip("stock, TorchCompileModel, FluxKVCache and the caches", context.no_host)
        plain_cells(context)
        return
    Stage(context).run()


class Stage:
    """Goes through the cells that this results file has not begun yet."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.models = Models(context.scale, context.device, context.dtype)
        self.pace = Pace(context.scale)
        records = context.results.last_run()
        self.begun = {record["cell"] for record in of_kind(records, STARTED)}
        self._recall(of_kind(records, CELL))

    def _recall(self, cells: list[dict[str, Any]]) -> None:
        """The pace that an earlier process found."""
        for cell in (one for one in cells if one["mode"] == DISTILLED):
            slowest = max(way["picture"] for way in cell["ways"])
            self.pace.rate = STEPS[DISTILLED] * cell["flops"] / slowest
            compiling = [way["compiling"] for way in cell["ways"] if way["compiling"]]
            self.pace.compiling = max(compiling, default=self.pace.compiling)

    def run(self) -> None:
        waiting = [cell for cell in matrix(self.context.scale) if cell.name not in self.begun]
        for number, cell in enumerate(waiting):
            if number == ERRORS_AFTER:
                self._errors()
            self._cell(cell)
        if len(waiting) <= ERRORS_AFTER:
            self._errors()
        self.context.add(WAITING, cells=[cell.name for cell in waiting if cell.name not in self.begun])

    def _cell(self, cell: Cell) -> None:
        left = self.context.deadline.left
        rounds = self.pace.rounds(cell, left, self.models.loaded)
        if rounds == 0:
            return
        if len(cell.precisions) > 1 and not self.models.fit_together(cell.precisions):
            self.context.skip(cell.name, "its models do not fit on this card beside each other")
            return
        self.context.add(STARTED, cell=cell.name)
        self.begun.add(cell.name)
        if not self._measured(cell, left):
            self.models.drop()

    def _measured(self, cell: Cell, seconds: float) -> bool:
        """False where it broke off: only once this has returned does nothing hold its models any more."""
        try:
            with limited(seconds):
                self._measure(cell)
        except (Exception, Overran) as error:
            self.context.skip(cell.name, first_line(error))
            if is_lost(error):
                raise
            return False
        return True

    def _measure(self, cell: Cell) -> None:
        self._load(cell)
        began = time.monotonic()
        bench = CellBench(cell, self.models, self.context.scale, dry=self.context.dry)
        bench.warm_up()
        if bench.compiling:
            self.pace.compiling = max(bench.compiling.values())
        self.pace.learn(cell, bench.wall)
        # What came before is over: only the rounds themselves are still to be paid.
        rounds = self.pace.rounds_in(cell, self.context.deadline.left)
        if rounds == 0 or not bench.ways:
            why = "; ".join(sorted(set(bench.failed.values()))) or "its time was over after warming up"
            raise RuntimeError(why)
        row = bench.measure(rounds)
        self.context.add(CELL, **row, wall=time.monotonic() - began)
        self.context.say("\n".join(lines(row)))

    def _load(self, cell: Cell) -> None:
        for precision in cell.precisions:
            if precision not in self.models.loaded:
                began = time.monotonic()
                self.models.get(precision, cell.precisions)
                self.pace.loading = time.monotonic() - began

    def _errors(self) -> None:
        done = {record["precision"] for record in of_kind(self.context.results.last_run(), ERRORS)}
        for precision in (one for one in PRECISIONS if one not in done):
            if self.context.deadline.left < 2 * self.pace.loading + 10:
                return
            try:
                with limited(self.context.deadline.left):
                    self._errors_in(precision)
            except (Exception, Overran) as error:
                self.context.skip(f"errors against float32 in {precision}", first_line(error))
                if is_lost(error):
                    raise

    def _errors_in(self, precision: str) -> None:
        model = self.models.get(precision)
        runs = Runs(self.context.scale, self.context.scale.sides[-1], 1, DISTILLED, self.context.device)
        found = errors({kind: way(model, kind) for kind in (STOCK, EXACT, FAST)}, model, runs)
        self.context.add(ERRORS, precision=precision, ways=found)
        for kind, by_block in found.items():
            worst = max(by_block, key=lambda block: by_block[block])
            self.context.say(f"  {precision} {kind}: {by_block[worst]:.2e} from float32 at most, in {worst}")


def lines(row: dict[str, Any]) -> list[str]:
    """For the console."""
    stock = next((one["picture"] for one in row["ways"] if one["way"] == STOCK), None)
    noise = "" if row["noise"] is None else f", two times stock differ by {row['noise']:.1%}"
    said = [f"  {row['cell']} ({row['rounds']} rounds{noise})"]
    for one in row["ways"]:
        ratio = f" {stock / one['picture']:6.3f}x" if stock else ""
        peak = "" if one["peak"] is None else f" peak {one['peak'] / 2**20:7.0f} MiB"
        said.append(f"    {one['precision']:<5}{one['way']:<32}{one['picture']:9.4f} s{ratio}{peak}")
    return said + [f"    {one['precision']:<5}{one['way']:<32} failed: {one['why']}" for one in row["failed"]]
