"""The ladder with rungs made for the purpose, and its real table on this machine."""

import re
import sys
from functools import partial

import pytest
import torch

from klein9b.kernels.eager import gated_residual, heads_norm_rope, int8_linear, layer_norm_modulate, swiglu_concat
from klein9b.kernels.eager.gated_residual_norm import gated_residual_norm_fp8_, gated_residual_norm_int8_
from klein9b.kernels.eager.layer_norm_modulate import layer_norm_modulate_fp8, layer_norm_modulate_int8
from klein9b.kernels.eager.rope import rope
from klein9b.kernels.eager.swiglu_concat import swiglu_concat_fp8, swiglu_concat_int8
from klein9b.kernels.ladder import Ladder, ops_for
from klein9b.kernels.rungs import RUNGS, Needs, Rung

OP = "gated_residual_"
DIFFERS = r"\d+ of \d+ values \(\S+%\) differ, by \S+ roundings at most; 3 are allowed"
EAGER_INT8 = {
    "int8_linear": int8_linear.int8_linear,
    "layer_norm_modulate_int8": layer_norm_modulate_int8,
    "gated_residual_norm_int8_": gated_residual_norm_int8_,
    "swiglu_concat_int8": swiglu_concat_int8,
}

EAGER_FP8 = {
    "layer_norm_modulate_fp8": layer_norm_modulate_fp8,
    "gated_residual_norm_fp8_": gated_residual_norm_fp8_,
    "swiglu_concat_fp8": swiglu_concat_fp8,
}


def rung(op, backend="triton", needs=None, name=OP):
    return Rung(name, backend, lambda exact: op, needs or Needs())


def right(x, y, gate):
    return gated_residual.gated_residual_(x, y, gate)


def off_by_a_rounding(x, y, gate):
    return x.copy_(x.double() + gate.double() * y.double())


def wrong(x, y, gate):
    return x.add_(y)


def not_a_number(x, y, gate):
    right(x, y, gate)[0, 0, 0] = float("nan")
    return x


def raising(x, y, gate):
    raise RuntimeError("no kernel image is available\nfor execution on the device")


def without_memory(x, y, gate):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def chosen(*rungs, ladder=None, dtype=torch.bfloat16, **options):
    options = {"exact": True, "rotation": rope, "int8": False, "fp8": False} | options
    return (ladder or Ladder(rungs)).ops_for(torch.empty(0, dtype=dtype), **options)


def choice(found, name=OP):
    (one,) = [one for one in found.choices if one.op == name]
    return one


class TestOneOp:
    def test_the_first_that_passes_is_used(self):
        found = chosen(rung(right), rung(raising, "kitchen"))
        assert found.ops.gated_residual_ is right
        assert (choice(found).backend, choice(found).exact) == ("triton", True)
        assert choice(found).reason == "Equal bits."

    def test_one_that_rounds_otherwise_is_used_and_not_called_exact(self):
        found = chosen(rung(off_by_a_rounding))
        assert found.ops.gated_residual_ is off_by_a_rounding
        assert not choice(found).exact
        assert re.match(rf"{DIFFERS}\.$", choice(found).reason)

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            (wrong, rf"Triton failed its self-check: {DIFFERS}\."),
            (not_a_number, "Triton failed its self-check: .*nan"),
            (raising, r"Triton failed: RuntimeError: no kernel image is available\.$"),
            (without_memory, r"Triton found no memory for its self-check\."),
        ],
        ids=["wrong", "NaN", "raising", "no memory"],
    )
    def test_one_that_is_bad_is_left_and_the_next_says_so(self, bad, words):
        found = chosen(rung(bad), rung(right, "kitchen"))
        assert found.ops.gated_residual_ is right and choice(found).backend == "kitchen"
        assert re.search(words, choice(found).reason)
        assert choice(found).reason.startswith("Equal bits. ")

    def test_eager_holds_where_all_are_left_and_names_each(self):
        found = chosen(rung(wrong), rung(raising, "kitchen"))
        assert found.ops.gated_residual_ is gated_residual.gated_residual_
        assert (choice(found).backend, choice(found).exact) == ("eager", True)
        assert "Triton failed its self-check" in choice(found).reason
        assert "comfy_kitchen failed: RuntimeError" in choice(found).reason

    def test_one_that_cannot_be_loaded_is_left(self):
        def load(exact):
            raise ImportError("DLL load failed")

        found = chosen(Rung(OP, "triton", load), rung(right, "kitchen"))
        assert choice(found).reason == "Equal bits. Triton failed: ImportError: DLL load failed."

    @pytest.mark.parametrize("exact", [True, False])
    def test_the_profile_is_asked_of_the_rung(self, exact):
        asked = []
        chosen(Rung(OP, "triton", lambda exact: asked.append(exact) or right), exact=exact)
        assert asked == [exact]

    def test_the_others_do_not_change(self):
        found = chosen(rung(right))
        assert found.ops.layer_norm_modulate is layer_norm_modulate.layer_norm_modulate
        assert found.ops.swiglu_concat is swiglu_concat.swiglu_concat
        assert len(found.choices) == 7 and found.ops.int8 is None and found.ops.fp8 is None

    def test_heads_are_turned_by_the_rotation_given(self):
        def backwards(x, freqs):
            return -rope(x, freqs)

        mine = partial(heads_norm_rope.heads_norm_rope, rotation=backwards)
        assert choice(chosen(rung(mine, name="heads_norm_rope"), rotation=backwards), "heads_norm_rope").exact
        found = chosen(rung(mine, name="heads_norm_rope"))
        assert choice(found, "heads_norm_rope").backend == "eager"
        packed, freqs = torch.ones(1, 2, 4), torch.eye(2).expand(1, 1, 2, 1, 2, 2)
        norm = heads_norm_rope.RmsNorm(torch.ones(2))
        (turned, _) = chosen(rotation=backwards).ops.heads_norm_rope(packed, (norm, None), freqs, 1)
        assert (turned < 0).all()


class TestMemory:
    def counted(self):
        calls = []

        def op(x, y, gate):
            calls.append(x.dtype)
            return right(x, y, gate)

        return op, calls

    def test_it_is_tried_once_for_each_device_dtype_profile_and_rotation(self):
        op, calls = self.counted()
        ladder = Ladder((rung(op),))
        first = chosen(ladder=ladder)
        assert chosen(ladder=ladder) is first and len(calls) == 1
        assert chosen(ladder=ladder, dtype=torch.float16) is not first and calls[1:] == [torch.float16]
        assert chosen(ladder=ladder, exact=False) is not first and len(calls) == 3
        assert chosen(ladder=ladder, rotation=partial(rope)) is not first and len(calls) == 4
        on_meta = ladder.ops_for(torch.empty(0, device="meta"), exact=True, rotation=rope)
        assert on_meta is not first

    def test_what_was_left_for_want_of_memory_is_tried_again(self):
        full = [True]

        def op(x, y, gate):
            return without_memory(x, y, gate) if full[0] else right(x, y, gate)

        ladder = Ladder((rung(op),))
        assert choice(chosen(ladder=ladder)).backend == "eager"
        full[0] = False
        assert choice(chosen(ladder=ladder)).backend == "triton"

    def test_nothing_is_tried_while_torch_compile_traces(self, monkeypatch):
        op, calls = self.counted()
        ladder = Ladder((rung(op),))
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            found = chosen(ladder=ladder)
        assert choice(found).backend == "eager" and "torch.compile is tracing" in choice(found).reason
        assert not calls
        assert choice(chosen(ladder=ladder)).backend == "triton"
        with monkeypatch.context() as patched:
            patched.setattr(torch.compiler, "is_compiling", lambda: True)
            assert choice(chosen(ladder=ladder)).backend == "triton"

    def test_it_can_be_asked_in_inference_mode(self):
        with torch.inference_mode():
            assert choice(chosen(rung(right))).exact


class TestInt8:
    def rungs(self, **changes):
        return [rung(op, name=name) for name, op in (EAGER_INT8 | changes).items()]

    def test_all_of_them_are_used_together(self):
        found = chosen(*self.rungs(), int8=True)
        assert found.ops.int8.linear is int8_linear.int8_linear
        assert found.ops.int8.layer_norm_modulate is layer_norm_modulate_int8
        assert found.ops.int8.gated_residual_norm_ is gated_residual_norm_int8_
        assert found.ops.int8.swiglu_concat is swiglu_concat_int8
        assert {choice(found, name).backend for name in EAGER_INT8} == {"triton"}

    @pytest.mark.parametrize("bad", EAGER_INT8)
    def test_one_that_is_left_leaves_all_to_the_host(self, bad):
        found = chosen(*self.rungs(**{bad: raising}), int8=True)
        assert found.ops.int8 is None
        assert {choice(found, name).backend for name in EAGER_INT8} == {"host"}
        assert "Triton failed" in choice(found, bad).reason
        for name in set(EAGER_INT8) - {bad}:
            assert choice(found, name).reason == (
                f"There is only the eager {bad}. So the linear layer makes its input int8 itself."
            )

    def test_they_are_not_tried_for_a_model_without_int8_weights(self):
        found = chosen(*self.rungs(int8_linear=raising), int8=False)
        assert not [one for one in found.choices if "int8" in one.op and one.op != "write_kv_int8_"]


class TestFp8:
    def rungs(self, **changes):
        return [rung(op, name=name) for name, op in (EAGER_FP8 | changes).items()]

    def test_all_of_them_are_used_together(self):
        found = chosen(*self.rungs(), fp8=True)
        assert found.ops.fp8.layer_norm_modulate is layer_norm_modulate_fp8
        assert found.ops.fp8.gated_residual_norm_ is gated_residual_norm_fp8_
        assert found.ops.fp8.swiglu_concat is swiglu_concat_fp8
        assert {choice(found, name).backend for name in EAGER_FP8} == {"triton"} and found.ops.int8 is None

    @pytest.mark.parametrize("bad", EAGER_FP8)
    def test_one_that_is_left_leaves_all_to_the_host(self, bad):
        found = chosen(*self.rungs(**{bad: raising}), fp8=True)
        assert found.ops.fp8 is None
        assert {choice(found, name).backend for name in EAGER_FP8} == {"host"}
        for name in set(EAGER_FP8) - {bad}:
            assert choice(found, name).reason == (
                f"There is only the eager {bad}. So the linear layer makes its input float8 itself."
            )

    def test_they_are_not_tried_for_a_model_without_float8_weights(self):
        found = chosen(*self.rungs(swiglu_concat_fp8=raising))
        assert not [one for one in found.choices if "fp8" in one.op]


class TestTable:
    def test_it_is_a_line_for_each_op_in_columns(self):
        text = chosen(rung(off_by_a_rounding)).table
        where, head, *lines = text.splitlines()
        assert where == f"cpu, bfloat16, exact, torch {torch.__version__}"
        assert len(lines) == 7
        (line,) = [line for line in lines if line.split()[0] == OP]
        assert line[head.index("runs on") :].startswith("triton")
        assert line[head.index("equal bits") :].startswith("no")
        assert "differ, by" in line[head.index("because") :]
        assert text.isascii()


class TestRealTable:
    def test_the_cpu_runs_eager_and_imports_nothing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
        found = Ladder(RUNGS).ops_for(torch.empty(0), exact=True, rotation=rope)
        assert found.ops.int8 is None and found.ops.fp8 is None
        assert {one.backend for one in found.choices} == {"eager", "host"}
        assert choice(found).reason == "Triton needs a GPU."
        assert all(one.exact for one in found.choices)

    def test_it_is_one_ladder_for_all(self):
        like = torch.empty(0)
        assert ops_for(like, exact=True, rotation=rope) is ops_for(like, exact=True, rotation=rope)

    def test_every_op_has_a_twin_in_triton(self):
        twins = {rung.op for rung in RUNGS if rung.backend == "triton"}
        assert twins == {one.op for one in chosen(int8=True, fp8=True).choices}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_gpu_runs_no_op_in_eager(dtype, exact):
    """Where Triton is there; the table is the message. Float8 is of newer cards."""
    pytest.importorskip("triton", reason="Triton is not installed")
    fp8 = torch.cuda.get_device_capability() >= (8, 9)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = Ladder(RUNGS).ops_for(torch.empty(0, device="cuda", dtype=dtype), exact=exact, rotation=rope, fp8=fp8)
    assert not [one for one in found.choices if one.backend in ("eager", "host")], found.table
    assert torch.cuda.max_memory_allocated() - before < 64 * 2**20
