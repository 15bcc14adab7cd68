"""The fastest exact attention: whose time counts, who is left out, and how often anything is timed."""

import math

import pytest
import torch

from klein9b.klein import attention_timing
from klein9b.klein.attention_timing import (
    EXACT,
    MOST_MILLISECONDS,
    OWN,
    REPETITIONS,
    FastestAttention,
    Shape,
    cuda_milliseconds,
    largest_error,
    sdpa,
    unfit_because,
)

BATCH, HEADS, QUERIES, KEYS, HEAD_DIM = 2, 3, 21, 34, 128
# Two float32 programs that order their sums differently.
SAME_MATHS = 1e-5


def drawn(*, queries=QUERIES, keys=KEYS, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(BATCH, HEADS, tokens, HEAD_DIM) for tokens in (queries, keys, keys)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


class Bench:
    """Backends that say they ran, and a timer that knows what each of them takes.

    Attributes:
        ran: names in the order of calls, whether timed or not.
        timed: names in the order of timings.
        told: what was said.
    """

    def __init__(self, times, **functions):
        self.times = {name: iter(each) if isinstance(each, list) else each for name, each in times.items()}
        self.ran, self.timed, self.told = [], [], []
        backends = {name: self.named(name, functions.get(name, sdpa)) for name in times if name != OWN}
        self.fastest = FastestAttention(backends, self.timer)
        self.own = self.named(OWN, sdpa)

    def named(self, name, function):
        def attend(q, k, v):
            self.ran.append(name)
            return function(q, k, v)

        return attend

    def timer(self, call):
        call()
        self.timed.append(self.ran[-1])
        time = self.times[self.ran[-1]]
        return time if isinstance(time, int | float) else next(time)

    def attend(self, *tensors):
        """The name of what runs for these tensors once their shape is timed."""
        tensors = tensors or drawn()
        self.fastest.attend(*tensors, self.own, self.told.append)
        self.ran.clear()
        out = self.fastest.attend(*tensors, self.own, self.told.append)
        assert (out is None) == (not self.ran)
        return self.ran[0] if self.ran else OWN


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ({OWN: 3.0, "a": 2.0, "b": 1.0}, "b"),
        ({OWN: 3.0, "a": 1.0, "b": 2.0}, "a"),
        ({OWN: 1.0, "a": 2.0, "b": 3.0}, OWN),
        ({OWN: 3.0, "a": 2.0, "b": 2.0}, "a"),
        ({OWN: 2.0, "a": 2.0, "b": 2.0}, OWN),
        ({OWN: 1.0, "a": 0.99}, OWN),
        ({OWN: 1.0, "a": 0.97}, "a"),
        ({OWN: 1.0}, OWN),
        ({OWN: [1.0] * 5, "a": [0.5, 90.0, 0.5, 90.0, 0.5]}, "a"),
        ({OWN: [1.0] * 5, "a": [0.1, 90.0, 0.1, 90.0, 90.0]}, OWN),
    ],
    ids=str,
)
def test_the_fastest_median_runs_if_it_is_worth_a_change(times, wanted):
    assert Bench(times).attend() == wanted


def test_a_shape_is_timed_once_and_said_once():
    bench = Bench({OWN: 2.0, "a": 1.0})
    for seed in range(3):
        bench.attend(*drawn(seed=seed))
    assert bench.timed == [OWN, "a"] * REPETITIONS
    assert bench.told == [
        "2 x 3 heads, 21 queries, 34 keys, float32 on cpu: a attention runs: a 1.00 ms, ComfyUI's own 2.00 ms."
    ]


@pytest.mark.parametrize("other", [{"queries": 5}, {"keys": 40}, {"dtype": torch.bfloat16}], ids=str)
def test_another_shape_or_dtype_is_timed_anew(other):
    bench = Bench({OWN: 2.0, "a": 1.0})
    bench.attend()
    bench.attend(*drawn(**other))
    assert len(bench.told) == 2 and len(bench.fastest.timings) == 2


def test_a_slow_shape_is_timed_in_one_turn():
    bench = Bench({OWN: MOST_MILLISECONDS, "a": MOST_MILLISECONDS / 2})
    assert bench.attend() == "a"
    assert bench.timed == [OWN, "a"]


def refuses(q, k, v):
    raise RuntimeError("No available kernel. Aborting execution.\nmore")


def one_nan(q, k, v):
    out = sdpa(q, k, v)
    out[1, 2, 3, 4] = math.nan
    return out


def wrong_head(q, k, v):
    out = sdpa(q, k, v)
    out[:, -1] *= 1.05
    return out


def wrong_end(q, k, v):
    out = sdpa(q, k, v)
    out[0, 0, -1] = 0
    return out


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (refuses, "No available kernel. Aborting execution"),
        (one_nan, "gives NaN or infinity"),
        (wrong_head, "differs from float32 by 5.0e-02, more than 1e-03"),
        (wrong_end, "differs from float32 by"),
        (lambda q, k, v: sdpa(q, k, v).half(), "gives (2, 3, 21, 128) in torch.float16"),
        (lambda q, k, v: sdpa(q, k, v).transpose(1, 2), "gives (2, 21, 3, 128) in torch.float32"),
    ],
)
def test_who_cannot_be_used_is_left_out_and_never_timed(function, why):
    bench = Bench({OWN: 3.0, "a": 0.1, "b": 1.0}, a=function)
    assert bench.attend() == "b"
    assert "a" not in bench.timed
    assert f"a left out ({why}" in bench.told[0]


def test_with_nobody_left_nothing_is_timed():
    bench = Bench({OWN: 3.0, "a": 0.1}, a=refuses)
    assert bench.attend() == OWN and not bench.timed
    assert len(bench.told) == 1


def test_tensors_that_are_not_finite_decide_nothing():
    bench, (q, k, v) = Bench({OWN: 3.0, "a": 1.0}), drawn()
    q[0, 0, 0, 0] = math.inf
    assert bench.fastest.attend(q, k, v, bench.own, bench.told.append) is None
    assert not bench.fastest.timings and not bench.told
    assert bench.attend() == "a"


def test_nothing_is_timed_while_a_graph_records(monkeypatch):
    bench = Bench({OWN: 3.0, "a": 1.0})
    monkeypatch.setattr(attention_timing, "is_recorded", lambda device: True)
    assert bench.attend() == OWN and not bench.timed
    monkeypatch.undo()
    assert bench.attend() == "a"
    monkeypatch.setattr(attention_timing, "is_recorded", lambda device: True)
    assert bench.attend() == "a"


def test_an_error_of_the_hosts_own_attention_is_its_own():
    bench = Bench({OWN: 3.0, "a": 1.0})
    with pytest.raises(RuntimeError, match="No available kernel"):
        bench.fastest.attend(*drawn(), refuses, bench.told.append)
    assert not bench.fastest.timings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_right_is_within_the_tolerance_of_its_dtype(dtype):
    assert unfit_because(sdpa, *drawn(queries=300, keys=700, dtype=dtype)) == ""


def test_the_error_is_that_of_float64():
    q, k, v = drawn()
    exact = sdpa(*(t.double() for t in (q, k, v))).float()
    assert largest_error(exact, q, k, v) < SAME_MATHS
    assert largest_error(exact * 1.01, q, k, v) == pytest.approx(0.01, rel=1e-3)


class TestTorchsBackends:
    """On a processor torch has flash and refuses the others, which a GPU may do too."""

    def test_those_that_refuse_are_left_out_quietly(self, recwarn):
        bench = FastestAttention(EXACT, lambda call: call() is None or 1.0)
        told = []
        assert bench.attend(*drawn(), sdpa, told.append) is None
        (timing,) = bench.timings.values()
        assert set(timing.milliseconds) == {OWN, "flash"} and set(timing.left_out) == {"cuDNN", "memory-efficient"}
        assert not recwarn.list and len(told) == 1

    def test_no_flag_is_left_changed(self):
        def flags():
            cuda = torch.backends.cuda
            return [
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.math_sdp_enabled(),
                cuda.cudnn_sdp_enabled(),
            ]

        before = flags()
        assert torch.allclose(EXACT["flash"](*drawn()), sdpa(*drawn()), atol=1e-5) and flags() == before
        with pytest.raises(RuntimeError):
            EXACT["memory-efficient"](*drawn())
        assert flags() == before


def test_a_shape_says_what_it_is():
    q, k, _ = drawn(dtype=torch.bfloat16)
    assert str(Shape.of(q, k)) == "2 x 3 heads, 21 queries, 34 keys, bfloat16 on cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="times on a CUDA device, and there is none")
@pytest.mark.parametrize("queries", [4608, 12800])
def test_on_a_gpu(queries):
    shape = (1, 32, queries, HEAD_DIM)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    fastest, told = FastestAttention(), []
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = fastest.attend(q, k, v, sdpa, told.append)
    assert torch.cuda.max_memory_allocated() - before < 4 * q.nbytes
    out = sdpa(q, k, v) if out is None else out
    assert largest_error(out, q, k, v) < 1e-2
    (timing,) = fastest.timings.values()
    assert OWN in timing.milliseconds and len(timing.milliseconds) > 1 and len(told) == 1
    assert cuda_milliseconds(lambda: sdpa(q, k, v)) > 0
