"""Which ops a model's blocks get, by what its matrices are; and what a person is told of them."""

from types import SimpleNamespace

import pytest
import torch

from host.edits import klein_model
from host.quantising_ops import int8_ops

pytestmark = pytest.mark.usefixtures("comfy_host")


@pytest.fixture(params=[None, "int8_tensorwise", "float8_e4m3fn"])
def format(request):
    return request.param


@pytest.fixture
def chosen(format):
    from klein9b.nodes.host.chosen_ops import ChosenOps, Profile

    return ChosenOps(Profile.EXACT, klein_model(quantised_as=format))


def test_8_bit_ops_are_looked_for_where_there_are_such_matrices(chosen, format, monkeypatch):
    import klein9b.nodes.host.chosen_ops as module

    asked = []

    def ops_for(like, **options):
        asked.append((options["int8"], options["fp8"]))
        return SimpleNamespace(ops=None, table="")

    monkeypatch.setattr(module, "ops_for", ops_for)
    chosen(torch.empty(0))
    assert asked == [(format == "int8_tensorwise", format == "float8_e4m3fn")]


def test_a_choice_is_logged_once_where_two_devices_take_turns(chosen, caplog):
    """As a model on several cards has it."""
    with caplog.at_level("INFO"):
        for _ in range(3):
            for device in ("cpu", "meta"):
                chosen(torch.empty(0, device=device))
    assert len([line for line in caplog.messages if "profile" in line]) == 2


def test_a_processor_leaves_them_to_the_hosts_layers(chosen, format):
    ops = chosen(torch.empty(0))
    assert ops.int8 is None and ops.fp8 is None
    assert chosen.summary.startswith("in torch alone: Triton needs a GPU.")


def test_a_card_that_has_them_uses_them(chosen, format, monkeypatch):
    import klein9b.nodes.host.chosen_ops as module
    from klein9b.kernels.ladder import Ladder
    from klein9b.kernels.rungs import Rung
    from klein9b.kernels.samples import CASES

    rungs = [Rung(name, "triton", lambda exact, op=case.eager: op) for name, case in CASES.items()]
    monkeypatch.setattr(module, "ops_for", Ladder(rungs).ops_for)
    ops = chosen(torch.empty(0))
    assert ops.int8 == (int8_ops() if format == "int8_tensorwise" else None)
    assert (ops.fp8 is not None) == (format == "float8_e4m3fn")
    assert "ops with ComfyUI's own bits" in chosen.summary


def summary(*choices):
    from klein9b.kernels.ladder import Choice, LadderOps
    from klein9b.nodes.host.block_functions import eager_ops
    from klein9b.nodes.host.chosen_ops import ChosenOps, Profile

    ops = ChosenOps.__new__(ChosenOps)
    ops.profile = Profile.EXACT
    ops._found = LadderOps(eager_ops(), tuple(Choice(f"op {i}", *one) for i, one in enumerate(choices)), "here")
    return ops.summary


KERNEL = ("triton", "Equal bits.", True)
OTHER_BITS = ("triton", "1e-3 off.", False)
KITCHENS = ("kitchen", "Equal bits. Triton is not installed.", True)
EAGER = ("eager", "Triton is not installed.", True)
HOSTS = ("host", "So the linear layer makes its input int8 itself.", True)


def test_who_computes_and_with_whose_bits():
    said = "2 on Triton, 1 on comfy_kitchen; 2 of 3 ops with ComfyUI's own bits"
    assert summary(KERNEL, OTHER_BITS, KITCHENS, HOSTS) == said


def test_without_triton_the_reason_is_told():
    said = "2 on torch, 1 on comfy_kitchen; 3 of 3 ops with ComfyUI's own bits. Triton is not installed."
    assert summary(EAGER, KITCHENS, EAGER, HOSTS) == said


def test_in_torch_alone():
    assert summary(EAGER, EAGER, HOSTS) == "in torch alone: Triton is not installed."
