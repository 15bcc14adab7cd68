"""Attention that rounds to 8 bits in the real host: how near it is, what fails or is missing, what a person is told.

No GPU is needed: sageattention and comfy-kitchen's int8 attention are played.
"""

import sys
import types

import pytest
import torch
from attention_choices import CPU, GPU, HEADS, SAME_MATHS, Spy, choose, drawn, overridden, put_on

from host.edits import cached, edit, forget, relative
from klein9b.klein.attention_timing import largest_error, sdpa

pytestmark = pytest.mark.usefixtures("comfy_host", "lines")


def sage_package(monkeypatch, sageattn, **more):
    package = types.ModuleType("sageattention")
    vars(package).update({"sageattn": sageattn} if sageattn else {}, **more)
    monkeypatch.setitem(sys.modules, "sageattention", package)
    return package


def kitchen_package(monkeypatch, int8_attention, available=lambda device=None: True):
    import comfy_kitchen

    for name, value in (("int8_attention", int8_attention), ("int8_attention_is_available", available)):
        if value is None:
            monkeypatch.delattr(comfy_kitchen, name, raising=False)
        else:
            monkeypatch.setattr(comfy_kitchen, name, value, raising=False)


def rounded(q, k, v):
    """8-bit queries and keys, one scale a token."""
    q, k = (((t / (s := t.abs().amax(-1, keepdim=True) / 127)).round() * s) for t in (q, k))
    return sdpa(q, k, v)


def sage_1(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, smooth_k=True, **kwargs):
    """As version 1 does, it takes the mean off the keys it was given."""
    assert tensor_layout == "HND" and not is_causal
    if smooth_k:
        k -= k.mean(dim=2, keepdim=True)
    return rounded(q, k, v)


def sage_2(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    assert tensor_layout == "HND" and not is_causal
    return rounded(q, k - k.mean(dim=2, keepdim=True), v)


def int8_attention(q, k, v, *, scale=None, attn_mask=None):
    return rounded(q, k, v)


@pytest.fixture
def capability(monkeypatch):
    """Sets that of the card played."""

    def set_to(major, minor):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))

    set_to(8, 9)
    return set_to


@pytest.fixture(params=["sage 1", "sage 2", "kitchen"])
def rounding(request, monkeypatch, capability):
    """A name of a choice whose package is played."""
    if request.param == "kitchen":
        kitchen_package(monkeypatch, int8_attention)
        return "kitchen int8"
    sage_package(monkeypatch, {"sage 1": sage_1, "sage 2": sage_2}[request.param])
    return "sage"


class TestRounding:
    def test_the_picture_is_near_and_named_approximate(self, rounding, model, references, picture, choices, lines):
        choice = choose(rounding)
        assert "rounds queries and keys to 8 bits" in choice.approximate
        assert choice.reason.startswith(f"{rounding}: ") and "runs for 2048 keys and more" in choice.reason
        got = edit(overridden(model, choice), references)
        assert SAME_MATHS < relative(got, picture) < 0.05
        assert not choice.override.failed and not lines()

    def test_the_inputs_stay_as_they_were(self, rounding):
        tensors = drawn()
        before = [t.clone() for t in tensors]
        out = choose(rounding).override(Spy(), *tensors, HEADS, skip_reshape=True, skip_output_reshape=True)
        assert all(map(torch.equal, tensors, before)) and largest_error(out, *tensors) < 0.05

    @pytest.mark.parametrize(("tokens", "ours"), [(2047, False), (2048, True)])
    def test_short_sequences_are_the_hosts(self, rounding, tokens, ours):
        host = Spy()
        choose(rounding).override(host, *drawn(tokens=tokens), HEADS, skip_reshape=True)
        assert bool(host.calls) != ours

    def test_a_block_that_needs_precision_keeps_it(self, rounding):
        host = Spy()
        options = {"skip_reshape": True, "low_precision_attention": False}
        choose(rounding).override(host, *drawn(), HEADS, **options)
        assert host.calls == [{"mask": None, "attn_precision": None, "skip_output_reshape": False, **options}]

    def test_keys_kept_between_runs_are_found_by_the_next_execution(self, rounding, model, references, choices):
        ours, shown = cached(overridden(model, choose(rounding)))
        forget(ours)
        edit(ours, references)
        for again, wanted in ((rounding, "hit"), ("sdpa", "miss"), (rounding, "hit")):
            put_on(ours, choose(again))
            edit(ours, references)
            assert shown[-1].split(":")[0] == wanted


def failing(q, k, v, **options):
    raise RuntimeError("Unsupported CUDA architecture: sm100\nmore of it")


def garbage(q, k, v, **options):
    return sdpa(q.roll(1, dims=2), k, v)


def nan(q, k, v, **options):
    return sdpa(q, k, v) * float("nan")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (failing, "Unsupported CUDA architecture: sm100"),
        (garbage, "differs from float32"),
        (nan, "gives NaN or infinity"),
    ],
)
@pytest.mark.parametrize("name", ["sage", "kitchen int8"])
def test_one_that_fails_gives_way_for_good_and_says_so_once(
    name, function, why, model, references, picture, monkeypatch, capability, choices, lines
):
    calls, told = [], []

    def counted(q, k, v, *, scale=None, tensor_layout="HND", is_causal=False):
        calls.append(1)
        return function(q, k, v)

    sage_package(monkeypatch, counted)
    kitchen_package(monkeypatch, counted)
    choice = choose(name, tell=told.append)
    before = choice.override.description
    assert torch.equal(edit(overridden(model, choice), references), picture)
    assert len(calls) == 1 and choice.override.description != before
    (line,) = lines("failed")
    assert line == f"Klein 9B: {told[0]}" and why in line and line.endswith(": ComfyUI's own attention runs.")


def test_one_that_fails_later_gives_way_too(monkeypatch, capability, lines):
    calls = []

    def fails_third(q, k, v, tensor_layout="HND", is_causal=False):
        calls.append(1)
        return failing(q, k, v) if len(calls) == 3 else rounded(q, k, v)

    sage_package(monkeypatch, fails_third)
    override, host = choose("sage").override, Spy()
    for _ in range(4):
        override(host, *drawn(), HEADS, skip_reshape=True)
    assert len(calls) == 3 and len(host.calls) == 3 and len(lines("failed")) == 1


def test_want_of_memory_is_for_the_host_to_meet(monkeypatch, capability):
    calls = []

    def short_of_memory(q, k, v, tensor_layout="HND", is_causal=False):
        calls.append(1)
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return rounded(q, k, v)

    sage_package(monkeypatch, short_of_memory)
    override = choose("sage").override
    with pytest.raises(torch.cuda.OutOfMemoryError):
        override(Spy(), *drawn(), HEADS, skip_reshape=True)
    assert not override.failed


class TestCompiled:
    def attended(self, choice, *, fullgraph):
        from comfy.ldm.modules.attention import attention_pytorch

        options = {"optimized_attention_override": choice.override}
        torch.compiler.reset()

        @torch.compile(backend="eager", fullgraph=fullgraph)
        def attend(q, k, v):
            return attention_pytorch(q, k, v, HEADS, skip_reshape=True, transformer_options=options)

        q, k, v = drawn(tokens=9)
        return attend(q, k, v), attention_pytorch(q, k, v, HEADS, skip_reshape=True)

    def test_torchs_choice_is_one_graph(self, choices):
        assert torch.allclose(*self.attended(choose("sdpa"), fullgraph=True), atol=1e-6)

    def test_kitchen_is_one_graph(self, monkeypatch, choices):
        kitchen_package(monkeypatch, int8_attention)
        assert SAME_MATHS < relative(*self.attended(choose("kitchen int8"), fullgraph=True)) < 0.05

    def test_sage_runs_beside_the_graph(self, monkeypatch, capability, choices):
        sage_package(monkeypatch, sage_2)
        assert SAME_MATHS < relative(*self.attended(choose("sage"), fullgraph=False)) < 0.05

    def test_sage_that_fails_beside_the_graph(self, monkeypatch, capability, choices, lines):
        sage_package(monkeypatch, lambda q, k, v, tensor_layout="HND", is_causal=False: failing(q, k, v))
        assert torch.allclose(*self.attended(choose("sage"), fullgraph=False), atol=1e-6)
        assert len(lines("failed")) == 1


class TestWhatIsMissing:
    """A sentence in the log and for the node, and the host's own attention."""

    def reason(self, choice, lines, device=GPU):
        got = choose(choice, device)
        assert got.override is None and not got.approximate
        assert lines() == [f"Klein 9B: {got.reason}"] and got.reason.endswith(", so ComfyUI's own attention runs.")
        return got.reason

    @pytest.mark.parametrize("choice", ["sage", "kitchen int8"])
    def test_a_gpu(self, choice, lines):
        assert "needs an NVIDIA or AMD GPU and the model runs on cpu" in self.reason(choice, lines, CPU)

    def test_sageattention(self, monkeypatch, lines):
        monkeypatch.setitem(sys.modules, "sageattention", None)
        assert "sageattention is not installed" in self.reason("sage", lines)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("import triton_that_is_not_here", "sageattention needs triton_that_is_not_here, which is not installed"),
            ("raise OSError('undefined symbol: x')", r"sageattention cannot be imported (undefined symbol: x)"),
            ("x = 1", "has no sageattn"),
            ("def sageattn(q, k, v, layout): pass", "does not take the arguments that Klein 9B knows"),
            ("sageattn = dict.get", "does not take the arguments that Klein 9B knows"),
        ],
    )
    def test_a_sageattention_that_works(self, source, words, tmp_path, monkeypatch, capability, lines):
        (tmp_path / "sageattention.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "sageattention", raising=False)
        assert words in self.reason("sage", lines)
        sys.modules.pop("sageattention", None)

    def test_an_int8_attention(self, monkeypatch, lines):
        kitchen_package(monkeypatch, None)
        assert "has no int8 attention (0.2.29 and later have it)" in self.reason("kitchen int8", lines)

    @pytest.mark.parametrize("available", [lambda: False, lambda device: False, lambda device=None: False])
    def test_an_int8_attention_for_this_card(self, monkeypatch, available, lines):
        kitchen_package(monkeypatch, int8_attention, available)
        assert "does not run on this GPU" in self.reason("kitchen int8", lines)

    def test_an_int8_attention_with_known_arguments(self, monkeypatch, lines):
        kitchen_package(monkeypatch, lambda q, k, v, layout: None)
        assert "does not take the arguments that Klein 9B knows" in self.reason("kitchen int8", lines)

    def test_an_int8_attention_that_says_nothing_of_the_card_is_tried(self, monkeypatch):
        kitchen_package(monkeypatch, int8_attention, None)
        assert choose("kitchen int8").override is not None

    def test_the_kitchen_at_hand_answers(self, lines):
        """Whatever its version: none of them runs without a GPU."""
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device, on which it may run")
        self.reason("kitchen int8", lines)


class TestSumsInFp32:
    """On cards whose fp16 sums overflow."""

    def chosen(self, monkeypatch, *, built=True):
        calls = []

        def fp16_cuda(q, k, v, tensor_layout="HND", is_causal=False, pv_accum_dtype="fp16", smooth_k=True, **kwargs):
            calls.append((pv_accum_dtype, smooth_k))
            return rounded(q, k, v)

        core = types.SimpleNamespace(SM80_ENABLED=built)
        sage_package(monkeypatch, sage_2, sageattn_qk_int8_pv_fp16_cuda=fp16_cuda, core=core)
        choice = choose("sage")
        choice.override(Spy(), *drawn(), HEADS, skip_reshape=True)
        return choice.reason, set(calls)

    @pytest.mark.parametrize("card", [(8, 0), (8, 6)])
    def test_there(self, monkeypatch, capability, card):
        capability(*card)
        reason, calls = self.chosen(monkeypatch)
        assert "with fp32 sums" in reason and calls == {("fp32", True)}

    def test_not_elsewhere(self, monkeypatch, capability):
        assert not self.chosen(monkeypatch)[1]

    def test_not_where_they_were_not_built(self, monkeypatch, capability):
        capability(8, 6)
        assert not self.chosen(monkeypatch, built=False)[1]


class TestIdentity:
    """What the reference cache files kept keys under."""

    def of(self, choice):
        from klein9b.nodes.host.model_state import identity

        return identity(choose(choice).override)

    def test_equal_choices_are_equal(self, rounding):
        assert all(self.of(name) == self.of(name) for name in ("auto", "sdpa", rounding))

    def test_other_choices_are_not(self, rounding):
        assert len({self.of("auto"), self.of("sdpa"), self.of(rounding)}) == 3

    def test_another_version_is_not(self, monkeypatch, rounding):
        import klein9b.nodes.host.lossy_attention as module

        before = self.of(rounding)
        monkeypatch.setattr(module, "_version", lambda name: "99")
        assert self.of(rounding) != before
