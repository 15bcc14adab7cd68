"""Which cells run, in which order, and how often, in the time there is."""

import itertools

import pytest

from gpu.cells import (
    AGAIN,
    BASE,
    BF16,
    COMPILED,
    DISTILLED,
    EXACT,
    FAST,
    FP8,
    INT8,
    KV,
    PRECISIONS,
    STOCK,
    WARM,
    Cell,
    Pace,
    matrix,
)
from gpu.deadline import Deadline
from gpu.scale import FULL


@pytest.fixture
def cells():
    return matrix(FULL)


def test_every_combination_has_a_cell(cells):
    wanted = itertools.product((1024, 512), (0, 1, 2, 4), (DISTILLED, BASE), PRECISIONS, (STOCK, COMPILED, EXACT, FAST))
    there = {(c.side, c.references, c.mode, *way) for c in cells for way in c.ways}
    assert set(wanted) <= there
    caches = itertools.product((1024, 512), (1, 2, 4), (DISTILLED,), PRECISIONS, (WARM, KV))
    assert set(caches) <= there


def test_none_comes_twice(cells):
    assert len({cell.name for cell in cells}) == len(cells)


def test_stock_stands_twice_wherever_something_is_compared(cells):
    for cell in cells:
        kinds = [kind for _, kind in cell.ways]
        assert STOCK in kinds and AGAIN in kinds, cell.name


def test_a_run_that_is_cut_off_has_the_most_telling_cells(cells):
    first = {(cell.references, precision) for cell in cells[:5] for precision in cell.precisions}
    assert {(0, BF16), (0, INT8), (2, BF16), (2, INT8), (0, FP8)} == first
    assert all((cell.side, cell.mode) == (1024, DISTILLED) for cell in cells[:5])


def test_the_models_flops_are_those_of_the_reference_page():
    """75.5, 161.2, 264.6 and 524.1 TF, counted elsewhere for the blocks and the little around them."""
    counted = [FULL.flops(1024, references) / 1e12 for references in (0, 1, 2, 4)]
    assert counted == pytest.approx([75.5, 161.2, 264.6, 524.1], rel=0.005)
    assert FULL.elements == pytest.approx(8.724e9, rel=1e-3)


class TestPace:
    CELL = Cell(1024, 0, DISTILLED, ((BF16, STOCK), (BF16, AGAIN), (BF16, FAST)))

    def test_rounds_come_in_pairs_and_are_six_at_most(self):
        pace = Pace(FULL)
        counts = [pace.rounds(self.CELL, seconds, [BF16]) for seconds in range(0, 1000, 5)]
        assert set(counts) == {0, 2, 4, 6}
        assert counts == sorted(counts)

    def test_what_is_promised_fits(self):
        pace = Pace(FULL)
        for seconds in range(0, 1000, 7):
            rounds = pace.rounds(self.CELL, seconds, [])
            spent = pace.once(self.CELL, []) + rounds * len(self.CELL.ways) * pace.visit(self.CELL)
            assert rounds == 0 or spent <= seconds

    def test_loading_and_compiling_count(self):
        pace = Pace(FULL)
        slow = Cell(1024, 0, DISTILLED, (*self.CELL.ways, (BF16, COMPILED)))
        assert pace.once(self.CELL, []) - pace.once(self.CELL, [BF16]) == pace.loading
        assert pace.once(slow, [BF16]) > pace.once(self.CELL, [BF16]) + pace.compiling

    def test_a_guided_step_is_two_evaluations(self):
        guided, plain = (Cell(1024, 0, mode, ((BF16, STOCK),)) for mode in (BASE, DISTILLED))
        pace = Pace(FULL, fixed=0.0)
        assert pace.visit(guided) / 3 == pytest.approx(2 * pace.visit(plain) / 4)

    def test_it_learns_from_what_ran(self):
        pace = Pace(FULL)
        pace.learn(self.CELL, 0.5)
        assert pace.visit(self.CELL) == pytest.approx(0.5)
        larger = Cell(1024, 2, DISTILLED, self.CELL.ways)
        assert pace.visit(larger) == pytest.approx(0.5 * 264.6 / 75.5, rel=0.01)


def planned(minutes, rate):
    """The cells that a card of so many FLOP a second comes to, by a clock that only the cells turn."""
    now = [0.0]
    deadline = Deadline(60 * minutes, lambda: now[0])
    pace, done, loaded = Pace(FULL), [], set()
    for cell in matrix(FULL):
        if pace.rounds(cell, deadline.left, loaded):
            real = 4 * FULL.flops(cell.side, cell.references) / rate * (1.5 if cell.mode == BASE else 1)
            loaded |= set(cell.precisions)
            now[0] += 2 * len(cell.ways) * real + 100 * cell.compiles
            pace.learn(cell, real)
            rounds = pace.rounds_in(cell, deadline.left)
            now[0] += rounds * len(cell.ways) * real
            done.append((cell, rounds))
    return done, now[0]


@pytest.mark.parametrize(("minutes", "rate"), [(12, 600e12), (12, 150e12), (3, 600e12), (12, 30e12)])
def test_no_plan_takes_longer_than_it_may(minutes, rate):
    done, seconds = planned(minutes, rate)
    assert done
    assert seconds <= 60 * minutes * 1.02


def test_a_fast_card_sees_the_caches_and_the_compiler_at_all_precisions():
    done, _ = planned(12, 600e12)
    seen = {(cell.references, way) for cell, rounds in done if rounds for way in cell.ways}
    assert {(0, (precision, COMPILED)) for precision in PRECISIONS} <= seen
    assert {(references, (BF16, WARM)) for references in (1, 2, 4)} <= seen


def test_a_slow_card_sees_the_first_cells():
    done, _ = planned(12, 60e12)
    assert [cell for cell, _ in done][:3] == matrix(FULL)[:3]
