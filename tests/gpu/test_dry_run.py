"""Every stage on the processor with a tiny model, in the real host; and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from pack import ROOT

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
    STOCK,
    WARM,
    Cell,
)
from gpu.child import run_stage
from gpu.context import Context
from gpu.deadline import Deadline
from gpu.report import render
from gpu.results import Results, of_kind
from gpu.scale import TINY
from gpu.stages import STAGES
from host.inprocess import enter

SIDE = TINY.sides[0]


@pytest.fixture
def host(checkout):
    enter(checkout)
    return checkout


@pytest.fixture
def context(tmp_path):
    results = Results(tmp_path / "dry.jsonl")
    results.add("run", card="no card", dry=True, minutes=1)
    return Context(results, Deadline(1000), dry=True, no_host=None)


def found(context, kind):
    return of_kind(context.results.last_run(), kind)


def test_the_shares_of_the_stages_leave_something():
    assert 0.9 < sum(one.share for one in STAGES) < 1


def test_the_machine_and_the_ladder(host, context):
    assert run_stage("environment", context) == 0
    (machine,) = found(context, "machine")
    assert machine["torch"] == torch.__version__ and machine["ComfyUI"][0].isdigit()
    assert {(one["dtype"], one["exact"]) for one in found(context, "ladder")} >= {
        ("torch.float32", True),
        ("torch.float16", False),
    }


def test_parity(context, monkeypatch):
    from klein9b.kernels import rungs

    ops = ("gated_residual_", "int8_linear", "swiglu_concat_fp8")
    few = tuple(rung for rung in rungs.RUNGS if rung.op in ops)
    monkeypatch.setattr(rungs, "RUNGS", few)
    assert run_stage("parity", context) == 0
    rows = found(context, "parity")
    assert {(row["op"], row["dtype"]) for row in rows} >= {
        ("int8_linear", "bfloat16"),
        ("gated_residual_", "float16"),
        ("swiglu_concat_fp8", "bfloat16"),
    }
    assert all(row["equal"] == 1 and row["places"] == 0 for row in rows)


def cell(references, mode, *ways):
    return Cell(SIDE, references, mode, ways)


CELLS = [
    cell(0, DISTILLED, (BF16, STOCK), (BF16, AGAIN), (BF16, COMPILED), (BF16, EXACT)),
    cell(1, DISTILLED, (INT8, STOCK), (INT8, AGAIN), (INT8, WARM), (INT8, KV)),
    cell(0, BASE, (BF16, STOCK), (BF16, AGAIN), (FP8, FAST)),
]


def test_a_cell_of_each_kind(host, context, monkeypatch):
    from gpu.stages import matrix

    monkeypatch.setattr(matrix, "matrix", lambda scale: CELLS)
    monkeypatch.setattr(matrix, "ERRORS_AFTER", 3)
    monkeypatch.setattr("gpu.cells.MOST_ROUNDS", 2)
    assert run_stage("matrix", context) == 0
    rows = found(context, "cell")
    assert [row["cell"] for row in rows] == [one.name for one in CELLS], found(context, "left out")
    for row, one in zip(rows, CELLS):
        assert not row["failed"], row["failed"]
        assert [(way["precision"], way["way"]) for way in row["ways"]] == list(one.ways)
        assert all(way["picture"] > 0 and not way["left to the host"] for way in row["ways"])
        assert row["noise"] is not None
    assert {one["precision"] for one in found(context, "errors")} == {BF16, INT8, FP8}
    for one in found(context, "errors"):
        assert set(one["ways"]) == {STOCK, EXACT, FAST}
        assert all(len(by_block) == TINY.blocks for by_block in one["ways"].values())
        largest = max(max(by_block.values()) for by_block in one["ways"].values())
        assert 1e-8 < largest < {BF16: 1e-5, INT8: 0.02, FP8: 0.1}[one["precision"]]
    assert "accelerated fast" in render(context.results.path)


def test_a_check_is_not_repeated_after_a_crash(host, context, monkeypatch):
    from gpu.stages import paths

    asked = []
    monkeypatch.setattr(paths, "CHECKS", {"one": lambda kit: asked.append(1) or "", "two": lambda kit: "equal bits"})
    context.add("path", name="one", passed=False, found="an illegal memory access")
    assert run_stage("paths", context) == 0
    assert not asked and [row["name"] for row in found(context, "path")] == ["one", "two"]


def test_a_later_process_knows_the_pace(context):
    from gpu.stages.matrix import Stage

    way = {"precision": BF16, "way": STOCK, "picture": 0.4, "compiling": 90.0}
    context.add("cell", cell="one", mode=DISTILLED, flops=75e12, ways=[way])
    pace = Stage(context).pace
    assert (pace.rate, pace.compiling) == (750e12, 90.0)


def test_what_was_begun_is_not_begun_again(host, context, monkeypatch):
    from gpu.stages import matrix

    monkeypatch.setattr(matrix, "matrix", lambda scale: CELLS[-1:])
    monkeypatch.setattr(matrix.Stage, "_errors", lambda stage: None)
    context.add("started", cell=CELLS[-1].name)
    assert run_stage("matrix", context) == 0
    assert not found(context, "cell")


def test_one_way_that_fails_costs_no_other(host, context, monkeypatch):
    from gpu import bench
    from gpu.stages import matrix

    def way(model, kind, **given):
        if kind == FAST:
            raise RuntimeError("no luck")
        return real(model, kind, **given)

    real = bench.way
    monkeypatch.setattr(bench, "way", way)
    monkeypatch.setattr(matrix, "matrix", lambda scale: [CELLS[-1]])
    monkeypatch.setattr(matrix.Stage, "_errors", lambda stage: None)
    monkeypatch.setattr("gpu.cells.MOST_ROUNDS", 2)
    assert run_stage("matrix", context) == 0
    (row,) = found(context, "cell")
    assert [way["way"] for way in row["ways"]] == [STOCK, AGAIN]
    assert {one["why"] for one in row["failed"]} == {"RuntimeError: no luck"}


def test_a_wrong_block_is_far_from_float32(host):
    """The comparison with float32 sees it."""
    from gpu.errors import errors
    from gpu.steps import Runs
    from gpu.weights import Models
    from klein9b.kernels.ops import Ops
    from klein9b.nodes.host.acceleration import Acceleration, accelerated

    model = Models(TINY, torch.device("cpu"), torch.float32).get(BF16)
    wrong = Ops(swiglu_concat=lambda mlp, attended: 1.01 * Ops().swiglu_concat(mlp, attended))
    ours = accelerated(model, Acceleration(lambda like: wrong, "wrong", lambda report: None))
    runs = Runs(TINY, SIDE, 1, DISTILLED, torch.device("cpu"))
    off = errors({"wrong": ours, STOCK: model.clone()}, model, runs)
    assert max(off[STOCK].values()) < 1e-5 < 1e-4 < min(off["wrong"].values())


def test_paths(host, context):
    from gpu.stages.paths import CHECKS

    assert run_stage("paths", context) == 0
    rows = {row["name"]: row for row in found(context, "path")}
    assert not [row for row in rows.values() if not row["passed"]]
    left = {row["what"] for row in found(context, "left out")}
    assert set(rows) | left == set(CHECKS)
    assert left == {
        "weights and references while memory is short",
        "planned peaks",
        "attention by sage",
        "attention by kitchen int8",
    }


def test_buckets(host, context):
    assert run_stage("buckets", context) == 0
    rows = found(context, "buckets")
    assert len(rows) == 9, found(context, "left out")
    for row in rows:
        assert {"matrix products", "elementwise", "gaps"} <= set(row["ms"])
        assert row["predicted_elementwise_ms"] is None, "the byte model is of the full size"


def test_plain_products(context):
    assert run_stage("products", context) == 0
    rates = {row["precision"]: row for row in found(context, "products")}
    assert {BF16, INT8} <= set(rates)
    for row in rates.values():
        assert row["flops"] == sum(one.flops * one.count for one in TINY.products(SIDE, 0))


class TestWithoutComfyUI:
    def test_the_blocks_alone_are_timed(self, context):
        context.no_host = "there is none"
        assert run_stage("matrix", context) == 0
        rows = found(context, "cell")
        assert [row["references"] for row in rows] == [0, 2, 1, 4]
        assert {way["way"] for way in rows[0]["ways"]} == {"eager ops", "eager ops again", EXACT, FAST}
        assert "without ComfyUI" in render(context.results.path)

    @pytest.mark.parametrize("name", ["paths", "buckets"])
    def test_what_needs_it_is_left_out_in_a_sentence(self, context, name):
        context.no_host = "there is none"
        assert run_stage(name, context) == 0
        assert [row["why"] for row in found(context, "left out")] == ["there is none"]


def test_a_stage_that_breaks_is_told(context, monkeypatch):
    from gpu.stages import products

    def broken(context):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(products, "run", broken)
    assert run_stage("products", context) == 1
    assert "illegal memory access" in found(context, "left out")[0]["why"]


def command(*arguments):
    return [sys.executable, str(ROOT / "tests" / "gpu"), *arguments]


def test_without_a_card_one_sentence_is_said():
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    answer = subprocess.run(command(), capture_output=True, text=True)
    assert answer.returncode == 0
    assert len(answer.stdout.strip().splitlines()) == 1 and "sees no NVIDIA card" in answer.stdout


def test_an_unknown_stage_is_named(tmp_path):
    answer = subprocess.run(command("--dry", "--stages", "speed"), capture_output=True, text=True)
    assert answer.returncode == 1 and "no stage is called speed" in answer.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle(tmp_path, how):
    """What was done is on disk and in the table, and nothing goes on running."""
    run = subprocess.Popen(
        command("--dry", "--stages", "environment,parity", "--minutes", "10", "--to", str(tmp_path)),
        env=os.environ | {"COMFYUI_PATH": "none"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    file = tmp_path / "no-card-dry-run.jsonl"
    until(lambda: file.exists() and file.read_text().count('"parity"') >= 2)
    os.kill(run.pid, how)
    run.wait(timeout=20)
    until(lambda: not alive_in(run.pid), 10)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["torch"] for one in records if one["kind"] == "machine"] == [torch.__version__]
    assert len([one for one in records if one["kind"] == "parity"]) >= 2
    answer = subprocess.run(command("--table", str(file)), capture_output=True, text=True)
    assert "What the ladder chose" in answer.stdout and "equal bits" in answer.stdout
    if how == signal.SIGINT:
        assert file.with_suffix(".md").read_text() == answer.stdout.removesuffix("\n")


def until(done, seconds=90):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def alive_in(session):
    """Processes of that session that still run."""
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True)
    return [line for line in listed.stdout.split() if not line.startswith("Z")]
