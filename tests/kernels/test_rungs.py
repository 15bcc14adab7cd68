"""Where a rung of the table applies: card, dtype, library and its version."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from klein9b.kernels import rungs
from klein9b.kernels.machine import Library, Machine, library, machine_of
from klein9b.kernels.rungs import RUNGS, Needs


def machine(kind="cuda", dtype=torch.bfloat16, capability=(8, 9)):
    return Machine(torch.device("cuda:0"), dtype, kind, capability)


def needs(op, backend):
    (found,) = [rung.needs for rung in RUNGS if (rung.op, rung.backend) == (op, backend)]
    return found


@pytest.fixture
def packages(monkeypatch):
    """The versions that are there, by name."""
    there = {"triton": "3.4.0", "comfy_kitchen": "0.2.31"}
    monkeypatch.setattr(rungs, "library", lambda name: Library(name, there[name], None))
    return there


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({}, None),
        ({"kind": "cpu", "capability": None}, "needs a GPU"),
        ({"kind": "mps", "capability": None}, "needs an NVIDIA GPU, got mps"),
        ({"kind": "hip", "capability": None}, "needs an NVIDIA GPU, got hip"),
        ({"capability": (7, 5)}, "needs sm_80 for bfloat16, got sm_75"),
        ({"capability": (7, 5), "dtype": torch.float16}, None),
        ({"capability": (7, 0), "dtype": torch.float16}, "needs sm_75 for float16, got sm_70"),
        ({"capability": (12, 0)}, None),
        ({"dtype": torch.float64}, "does not serve float64"),
    ],
    ids=str,
)
def test_triton_is_for_some_cards(packages, where, why):
    assert needs("swiglu_concat", "triton").why_not(machine(**where)) == why


def test_tritons_int8_product_is_for_newer_cards(packages):
    older = machine(dtype=torch.float16, capability=(7, 5))
    assert needs("int8_linear", "triton").why_not(older) == "needs sm_80 for float16, got sm_75"
    assert needs("int8_linear", "triton").why_not(machine(capability=(8, 0))) is None


def test_tritons_float8_is_for_newer_cards(packages):
    for op in ("layer_norm_modulate_fp8", "gated_residual_norm_fp8_", "swiglu_concat_fp8"):
        assert needs(op, "triton").why_not(machine(capability=(8, 6))) == "needs sm_89 for bfloat16, got sm_86"
        assert needs(op, "triton").why_not(machine(capability=(8, 9))) is None


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("3.0.0", None),
        ("3.10.1+git5", None),
        ("2.3.1", "is of version 2.3.1, older than 3.0"),
        (None, None),
    ],
)
def test_triton_may_be_too_old(packages, version, why):
    packages["triton"] = version
    assert needs("swiglu_concat", "triton").why_not(machine()) == why


@pytest.mark.parametrize(
    ("version", "why"),
    [("0.2.24", None), ("0.9.1", None), ("0.2.9", "is of version 0.2.9, older than 0.2.24"), (None, None)],
    ids=["oldest known", "newer than any known", "older", "unknown"],
)
def test_a_kitchen_that_is_too_old_is_left_and_a_newer_one_tried(packages, monkeypatch, version, why):
    packages["comfy_kitchen"] = version
    wanted = needs("layer_norm_modulate", "kitchen")
    card = Needs(wanted.kinds, wanted.capability, wanted.package, wanted.oldest)
    assert card.why_not(machine()) == why


def test_a_backend_that_is_off_is_the_last_question():
    asked = []
    off = Needs(kinds=("cuda",), off=lambda: asked.append(1) or "has its CUDA backend off: no driver")
    assert off.why_not(machine(kind="cpu")) == "needs a GPU" and not asked
    assert off.why_not(machine()) == "has its CUDA backend off: no driver"


def test_rms_rope_is_for_halves_alone(packages):
    assert needs("heads_norm_rope", "kitchen").why_not(machine(dtype=torch.float32)) == "does not serve float32"


class TestLibrary:
    @pytest.mark.peer
    def test_kitchens_version_is_read_from_what_was_installed(self):
        pytest.importorskip("comfy_kitchen", reason="comfy_kitchen is not installed; ComfyUI brings it")
        assert library("comfy_kitchen").numbers >= (0, 2, 24)

    def test_one_that_is_hidden_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
        assert library("comfy_kitchen").missing == "is not installed"
        assert str(library("comfy_kitchen")) == "no comfy_kitchen"

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (
                "import nowhere_found",
                "does not import: ModuleNotFoundError: No module named 'nowhere_found'",
            ),
            ("raise OSError('libcuda.so.1: cannot open')", "does not import: OSError: libcuda.so.1: cannot open"),
        ],
    )
    def test_one_that_is_broken_says_how(self, tmp_path, monkeypatch, code, words):
        (tmp_path / "broken_library_of_a_test.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        assert library("broken_library_of_a_test").missing == words

    @pytest.mark.parametrize(
        ("version", "numbers"), [("3.4.0", (3, 4, 0)), ("3.10.0.post1+cu130", (3, 10, 0)), (None, None)]
    )
    def test_its_version_as_numbers(self, monkeypatch, version, numbers):
        made = ModuleType("some_library_of_a_test")
        made.__version__ = version
        monkeypatch.setitem(sys.modules, made.__name__, made)
        assert library(made.__name__).numbers == numbers


def test_a_cpu_has_no_capability():
    assert machine_of(torch.device("cpu"), torch.float32) == Machine(torch.device("cpu"), torch.float32, "cpu", None)


@pytest.fixture(scope="module")
def interpreted():
    """[op, exact, passed, words] of each Triton rung. Triton itself stays out of this process."""
    try:
        there = find_spec("triton")
    except ModuleNotFoundError:
        there = None
    if there is None:
        pytest.skip("Triton is not installed")
    command = [sys.executable, str(Path(__file__).parent / "interpreted.py"), "float16"]
    answer = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_every_twin_in_triton_passes_its_self_check_in_the_interpreter(interpreted):
    assert {op for op, *_ in interpreted} == {rung.op for rung in RUNGS if rung.backend == "triton"}
    assert not [one for one in interpreted if not one[2]]
