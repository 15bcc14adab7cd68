"""Every kernel compiled for every kind of card, without one: it fits the shared memory and spills no registers."""

import ast
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from host.checkout import PACK
from klein9b.kernels.rungs import RUNGS

# Bytes of shared memory that one program may have: NVIDIA's programming guide, technical specifications.
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 120: 101376}
RUNS = [*((card, "exact", "float16", "bfloat16") for card in SHARED), (86, "fast", "bfloat16")]
PROCESSES, MINUTES = 2, 20
SOURCES = sorted((PACK / "kernels" / "triton").glob("*.py"))


def compiled(run, cache):
    """What compiling.py said, in a process that does not interpret and leaves nothing in a user's cache."""
    command = [sys.executable, Path(__file__).with_name("compiling.py"), *map(str, run)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache / "-".join(map(str, run)))
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 * MINUTES)
    return answer.stderr if answer.returncode else json.loads(answer.stdout)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A list of kernels, or what went wrong, for each run."""
    cache = tmp_path_factory.mktemp("compiled")
    with ThreadPoolExecutor(PROCESSES) as pool:
        return dict(zip(RUNS, pool.map(lambda run: compiled(run, cache), RUNS), strict=True))


def served(card, dtype):
    return {
        rung.op
        for rung in RUNGS
        if rung.backend == "triton"
        and {str(one): oldest for one, oldest in rung.needs.capability.items()}[f"torch.{dtype}"] <= divmod(card, 10)
    }


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"sm_{run[0]} {run[1]}")
def test_every_op_compiles(kernels, run):
    card, profile, *dtypes = run
    assert isinstance(kernels[run], list), kernels[run]
    for dtype in dtypes:
        assert {each["op"] for each in kernels[run] if each["dtype"] == f"torch.{dtype}"} == served(card, dtype)
    for each in kernels[run]:
        assert each["cubin"] and each["target"].rstrip("a") == f"sm_{card}"
        assert each["shared"] <= SHARED[card], each
        assert each["stack"] == 0, f"{each['kernel']} spills registers: {each}"
        assert profile == "fast" or not each["fusion"], f"{each['kernel']} may contract a * b + c"


def launched():
    """Every kernel that the sources launch, as file.name."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "launch":
                yield f"{path.stem}.{node.args[0].id}"


def test_no_kernel_was_forgotten(kernels):
    known = {each["kernel"] for run in kernels.values() for each in run}
    assert len(known) > 8 and known == set(launched())


def test_the_table_has_every_twin():
    twins = set()
    for path in SOURCES:
        names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        if (PACK / "kernels" / "eager" / path.name).exists():
            twins |= names & set(vars(import_module(f"klein9b.kernels.eager.{path.stem}")))
    assert twins == {rung.op for rung in RUNGS if rung.backend == "triton"}
