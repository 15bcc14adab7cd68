"""Klein 9B Accelerate beside stock and the host's TorchCompileModel: interleaved in one process, one set of weights.

On a card the first cells of make gpu's matrix at Klein 9B's size; on a processor a stand-in, where the ops are eager.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu.bench import CellBench
from gpu.cells import AGAIN, BF16, COMPILED, DISTILLED, FAST, MOST_ROUNDS, STOCK, Cell, counted
from gpu.comfy_here import entered
from gpu.context import Context, first_line, limited
from gpu.deadline import Deadline
from gpu.results import Results, of_kind
from gpu.scale import TINY
from gpu.stages.matrix import Stage
from gpu.weights import Models

# 512 tokens of text, 64 of the picture and of each reference.
SCALE = replace(TINY, sides=(128,))
MINUTES_ON_A_CARD = 4
COMPILING = 240

Row = dict[str, Any]


def main() -> list[Row]:
    """Rows of {"name", "value", "unit", "limit"}; a value over its limit is a regression, None is no limit."""
    card = torch.cuda.is_available()
    why = entered(dry=not card)
    if why:
        return [absent("accelerated / stock", why)]
    return [*(on_a_card() if card else on_the_processor())]


def on_the_processor() -> Iterator[Row]:
    for references in (0, 2):
        yield from rows(measured(references, FAST), "CPU stand-in")
    if shutil.which("c++") is None and shutil.which("g++") is None:
        yield absent(f"{COMPILED} / stock, CPU stand-in", "torch.compile needs a C++ compiler")
        return
    try:
        with limited(COMPILING):
            yield from rows(measured(0, COMPILED, FAST), "CPU stand-in, beside compiled")
    except Exception as error:
        yield absent(f"{COMPILED} / stock, CPU stand-in", first_line(error))
    yield absent("the same at 9B's size on a GPU", "no CUDA device on this machine")


def measured(references: int, *kinds: str) -> Row:
    cell = Cell(SCALE.sides[0], references, DISTILLED, tuple((BF16, kind) for kind in (STOCK, AGAIN, *kinds)))
    bench = CellBench(cell, Models(SCALE, torch.device("cpu"), torch.float32), SCALE, dry=False)
    bench.warm_up()
    return bench.measure(MOST_ROUNDS)


def on_a_card() -> Iterator[Row]:
    """As many cells as there are minutes for; `make gpu` measures the rest, and says what the ladder chose."""
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder) / "cells.jsonl")
        Stage(Context(results, Deadline(60 * MINUTES_ON_A_CARD), dry=False, no_host=None)).run()
        records = results.last_run()
    for cell in of_kind(records, "cell"):
        yield from rows(cell, torch.cuda.get_device_name())
    yield from (absent(one["what"], one["why"]) for one in of_kind(records, "left out"))


def rows(cell: Row, where: str) -> Iterator[Row]:
    """Seconds of stock, and everything else in parts of them: at most 1 and what two times the same are apart.

    By medians on a card; by the fastest run on a processor, which others use too.
    """
    by = "picture" if torch.cuda.is_available() else "fastest"
    seconds = {(way["precision"], way["way"]): way[by] for way in cell["ways"]}
    scene = f"{counted(cell['references'])}, {where}"
    for (precision, kind), taken in seconds.items():
        stock, again = (seconds.get((precision, one)) for one in (STOCK, AGAIN))
        named = f"{precision} {kind}" if torch.cuda.is_available() else kind
        if kind == STOCK or stock is None:
            yield row(f"{named}, {scene}", taken, "s")
        elif kind == AGAIN:
            yield row(f"{named} / stock, {scene}", taken / stock, "x")
        else:
            noise = 0.0 if again is None else abs(again / stock - 1)
            yield row(f"{named} / stock, {scene}", taken / stock, "x", 1 + noise if kind == FAST else None)
    yield from (absent(f"{one['way']}, {scene}", one["why"]) for one in cell["failed"])


def row(name: str, value: float, unit: str, limit: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "limit": limit}


def absent(name: str, why: str) -> Row:
    return {"name": name, "value": None, "unit": "", "limit": None, "why": why}
