"""The benchmark's matrix, the most telling first, and how many rounds of each there is time for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .scale import Scale

STOCK, AGAIN, COMPILED = "stock", "stock again", "stock + TorchCompileModel"
EXACT, FAST, WARM, KV = "accelerated exact", "accelerated fast", "accelerated fast + warm cache", "stock FluxKVCache"
DISTILLED, BASE = "distilled, 4 steps", "base, 20 steps at cfg 5"
BF16, FP8, INT8 = "bf16", "fp8", "int8"
PRECISIONS = (BF16, INT8, FP8)
STEPS = {DISTILLED: 4, BASE: 20}
# Of a base run three steps are timed: its first, and others that all cost the same.
TIMED_STEPS = {DISTILLED: 4, BASE: 3}
CFG = {DISTILLED: 1.0, BASE: 5.0}

Way = tuple[str, str]  # a precision, and what runs it


def counted(references: int) -> str:
    return f"{references} reference{'s' * (references != 1)}"


@dataclass(frozen=True)
class Cell:
    """Ways to run one scene, timed beside each other. Stock stands twice in it: the noise.

    Attributes:
        side: of the picture in pixels.
        references: how many images of the scale's first side.
    """

    side: int
    references: int
    mode: str
    ways: tuple[Way, ...]

    @property
    def precisions(self) -> list[str]:
        return sorted({precision for precision, _ in self.ways}, key=PRECISIONS.index)

    @property
    def compiles(self) -> int:
        return sum(kind == COMPILED for _, kind in self.ways)

    @property
    def name(self) -> str:
        ways = " / ".join(sorted({kind for _, kind in self.ways if kind in (COMPILED, WARM)}))
        said = [" and ".join(self.precisions), f"{self.side}x{self.side}", counted(self.references), self.mode]
        return ", ".join([*said, *([ways] if ways else [])])


def matrix(scale: Scale) -> list[Cell]:
    """Every cell, the most telling first."""
    cells: list[Cell] = []
    for cell in (*_first(scale.sides[0]), *_rest(scale)):
        if cell not in cells:
            cells.append(cell)
    return cells


def _first(side: int) -> Iterator[Cell]:
    for references in (0, 2):
        for precision in (BF16, INT8):
            yield _plain(side, references, DISTILLED, precision)
    yield _plain(side, 0, DISTILLED, FP8)
    yield Cell(side, 0, DISTILLED, ((BF16, STOCK), (BF16, AGAIN), (INT8, STOCK), (INT8, FAST), (FP8, FAST)))
    for precision in PRECISIONS:
        yield _compiled(side, 0, DISTILLED, precision)
    for references in (2, 1, 4):
        yield _cached(side, references, BF16)
    for references in (2, 1, 4):
        yield _cached(side, references, INT8)
    yield _plain(side, 2, BASE, INT8)
    yield _plain(side, 0, BASE, BF16)


def _rest(scale: Scale) -> Iterator[Cell]:
    for side in scale.sides:
        for mode in (DISTILLED, BASE):
            for references in (0, 2, 1, 4):
                yield from (_plain(side, references, mode, precision) for precision in PRECISIONS)
    for side in scale.sides:
        for references in (1, 2, 4):
            yield from (_cached(side, references, precision) for precision in PRECISIONS)
    for side in scale.sides:
        for mode in (DISTILLED, BASE):
            for references in (0, 2, 1, 4):
                yield from (_compiled(side, references, mode, precision) for precision in PRECISIONS)


def _plain(side: int, references: int, mode: str, precision: str) -> Cell:
    return _cell(side, references, mode, precision, EXACT, FAST)


def _cached(side: int, references: int, precision: str) -> Cell:
    return _cell(side, references, DISTILLED, precision, FAST, WARM, KV)


def _compiled(side: int, references: int, mode: str, precision: str) -> Cell:
    return _cell(side, references, mode, precision, COMPILED, FAST)


def _cell(side: int, references: int, mode: str, precision: str, *kinds: str) -> Cell:
    return Cell(side, references, mode, tuple((precision, kind) for kind in (STOCK, AGAIN, *kinds)))


@dataclass
class Pace:
    """What is known of this card's speed, from the cells run so far.

    Attributes:
        rate: FLOP a second; the first guess is low, so that a slow card is not asked too much.
        compiling: seconds that a compilation takes.
        loading: seconds that it takes to make a model.
        fixed: seconds around every run.
    """

    scale: Scale
    rate: float = 40e12
    compiling: float = 180.0
    loading: float = 30.0
    fixed: float = 0.3

    def visit(self, cell: Cell) -> float:
        """Seconds of one run of one way."""
        rows = 2 if CFG[cell.mode] > 1 else 1
        steps = rows * TIMED_STEPS[cell.mode]
        return self.fixed + steps * self.scale.flops(cell.side, cell.references) / self.rate

    def once(self, cell: Cell, loaded: Collection[str]) -> float:
        """Seconds before anything is timed: models, compilers, two runs of each way to warm it up."""
        loading = self.loading * sum(precision not in loaded for precision in cell.precisions)
        return loading + self.compiling * cell.compiles + 2 * len(cell.ways) * self.visit(cell)

    def learn(self, cell: Cell, visit_seconds: float) -> None:
        """From what one run took on the wall, by median."""
        rows = 2 if CFG[cell.mode] > 1 else 1
        steps = rows * TIMED_STEPS[cell.mode]
        self.rate = steps * self.scale.flops(cell.side, cell.references) / max(1e-9, visit_seconds)
        self.fixed = 0.0

    def rounds(self, cell: Cell, seconds: float, loaded: Collection[str]) -> int:
        """How often each way can run in so much time: an even number, so that drift falls on all alike.

        Returns:
            0 where there is no time for two rounds, as the first and the last of a cell.
        """
        return self.rounds_in(cell, seconds - self.once(cell, loaded))

    def rounds_in(self, cell: Cell, seconds: float) -> int:
        """As `rounds`, once everything is warm."""
        possible = int(seconds / (len(cell.ways) * self.visit(cell)))
        return max(0, min(MOST_ROUNDS, possible - possible % 2))


# Six rounds of four steps are 24 timed steps a way.
MOST_ROUNDS = 6
