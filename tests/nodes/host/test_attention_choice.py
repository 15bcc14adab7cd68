"""The exact attention of Klein's blocks in the real host: what runs, what is left to the host. Timers are played."""

import pytest
import torch
from attention_choices import BLOCKS, CPU, HEAD_DIM, HEADS, SAME_MATHS, Spy, choose, drawn, overridden, put_on

from host.edits import edit, relative
from klein9b.klein.attention_timing import OWN, FastestAttention, sdpa

pytestmark = pytest.mark.usefixtures("comfy_host", "lines")


class Played:
    """Backends by name with the time each takes."""

    def __init__(self, **times):
        self.times, self.ran = times, []
        self.timed = 0

    def backend(self, name):
        return lambda q, k, v: (self.ran.append(name), sdpa(q, k, v))[1]

    def timer(self, call):
        self.ran.append(OWN)
        call()
        self.timed += 1
        return self.times.get(self.ran[-1], 5.0)

    def fastest(self):
        return FastestAttention({name: self.backend(name) for name in self.times}, self.timer)


class TestSdpa:
    def test_every_block_runs_it_and_the_picture_stays(self, model, references, picture, monkeypatch, choices):
        calls = []
        monkeypatch.setattr(choices, "sdpa", lambda *tensors: calls.append(1) or sdpa(*tensors))
        choice = choose("sdpa", CPU)
        assert relative(edit(overridden(model, choice), references), picture) < SAME_MATHS
        assert len(calls) == 2 * BLOCKS and (choice.approximate, "sdpa" in choice.reason) == ("", True)

    def test_a_wrong_attention_would_be_seen(self, model, references, picture, monkeypatch, choices):
        monkeypatch.setattr(choices, "sdpa", lambda q, k, v: sdpa(q * 0.99, k, v))
        assert relative(edit(overridden(model, choose("sdpa", CPU)), references), picture) > 10 * SAME_MATHS

    @pytest.mark.parametrize("skip_output_reshape", [False, True])
    def test_the_form_of_the_output_is_the_hosts(self, skip_output_reshape):
        from comfy.ldm.modules.attention import attention_pytorch

        q, k, v = drawn(tokens=9)
        form = {"skip_reshape": True, "skip_output_reshape": skip_output_reshape}
        got = choose("sdpa", CPU).override(attention_pytorch, q, k[:, :, :5], v[:, :, :5], HEADS, **form)
        wanted = attention_pytorch(q, k[:, :, :5], v[:, :, :5], HEADS, **form)
        assert got.shape == wanted.shape and torch.allclose(got, wanted, atol=1e-6)


class TestLeftToTheHost:
    """The host's function gets the call as it came."""

    def asked(self, *tensors, choice="sdpa", **options):
        host = Spy()
        out = choose(choice, CPU).override(host, *tensors, HEADS, **({"skip_reshape": True} | options))
        return host.calls, out == "the host's own"

    @pytest.mark.parametrize(
        "options",
        [
            {"mask": torch.ones(1, 1)},
            {"skip_reshape": False},
            {"attn_precision": torch.float32},
            {"scale": 0.1},
            {"enable_gqa": True},
            {"something_new": torch.ones(2)},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_a_call_of_another_kind(self, options):
        calls, left = self.asked(*drawn(tokens=5), **options)
        (name, value), (call,) = next(iter(options.items())), calls
        assert left and call[name] is value

    def test_a_call_with_remarks_is_ours(self):
        options = {"transformer_options": {}, "_inside_attn_wrapper": True, "scale": None, "enable_gqa": False}
        host = Spy()
        q, k, v = drawn(tokens=5)
        out = choose("sdpa", CPU).override(host, q, k, v, HEADS, skip_reshape=True, **options)
        assert not host.calls and out.shape == (1, 5, HEADS * HEAD_DIM)

    def test_another_head_size(self):
        assert self.asked(*drawn(tokens=5, head_dim=64))[1]

    def test_fewer_heads_of_keys(self):
        q, _, _ = drawn(tokens=5, heads=4)
        assert self.asked(q, *drawn(tokens=5)[1:])[1]

    def test_tensors_that_want_gradients(self):
        q, k, v = drawn(tokens=5)
        assert self.asked(q.requires_grad_(), k, v)[1]


class TestAuto:
    def test_on_a_processor_the_hosts_own_stays(self, model, references, picture):
        choice = choose("auto", CPU)
        assert choice.override is None and not choice.approximate
        assert choice.reason == (
            "auto: the model runs on cpu, where there is one exact attention, so ComfyUI's own runs."
        )
        assert torch.equal(edit(overridden(model, choice), references), picture)

    def test_the_fastest_runs_and_each_shape_is_said_once(
        self, model, references, picture, monkeypatch, choices, lines
    ):
        played, told = Played(slow=9.0, quick=1.0), []
        monkeypatch.setattr(choices, "_fastest", played.fastest())
        for _ in range(2):  # anew in every execution of the graph
            ours = overridden(model, choose("auto", tell=told.append))
            assert relative(edit(ours, references), picture) < SAME_MATHS
        assert lines("attention runs") == [f"Klein 9B: {told[0]}"] and "quick attention runs" in told[0]
        assert played.ran[-2 * BLOCKS :] == ["quick"] * 2 * BLOCKS

    def test_where_the_host_is_fastest_its_own_bits_come_out(self, model, references, picture, monkeypatch, choices):
        played = Played(slow=9.0)
        monkeypatch.setattr(choices, "_fastest", played.fastest())
        assert torch.equal(edit(overridden(model, choose("auto")), references), picture)
        assert played.timed

    def test_short_sequences_are_the_hosts(self, monkeypatch):
        import klein9b.nodes.host.attention_choice as module

        monkeypatch.setattr(module, "_fastest", None)
        host = Spy()
        choose("auto").override(host, *drawn(tokens=1023), HEADS, skip_reshape=True)
        assert host.calls

    def test_nothing_is_timed_while_torch_compiles(self, monkeypatch, choices):
        from comfy.ldm.modules.attention import attention_pytorch

        played = Played(quick=1.0)
        monkeypatch.setattr(choices, "_fastest", played.fastest())
        options = {"optimized_attention_override": choose("auto").override}
        torch.compiler.reset()

        @torch.compile(backend="eager", fullgraph=True)
        def attend(q, k, v):
            return attention_pytorch(q, k, v, HEADS, skip_reshape=True, transformer_options=options)

        q, k, v = drawn(tokens=9)
        assert torch.allclose(attend(q, k, v), attention_pytorch(q, k, v, HEADS, skip_reshape=True))
        assert not played.timed and not played.ran


class TestPutOn:
    def test_the_model_itself_is_left_alone(self, model):
        ours = overridden(model, choose("sdpa", CPU))
        assert "optimized_attention_override" not in model.model_options["transformer_options"]
        assert "optimized_attention_override" in ours.clone().model_options["transformer_options"]

    def test_another_nodes_override_stays_and_the_log_says_so(self, model, references, lines):
        calls = []

        def theirs(func, *args, **kwargs):
            calls.append(1)
            return func(*args, **kwargs)

        ours = model.clone()
        ours.model_options["transformer_options"]["optimized_attention_override"] = theirs
        got = put_on(ours, choose("sdpa", CPU))
        assert got.override is None and not got.approximate
        assert lines() == [f"Klein 9B: {got.reason}"] and "its choice stays" in got.reason
        edit(ours, references)
        assert len(calls) == 2 * BLOCKS

    def test_nothing_is_said_where_nothing_of_ours_was_to_run(self, model, lines):
        ours, choice = model.clone(), choose("auto", CPU)
        ours.model_options["transformer_options"]["optimized_attention_override"] = theirs = Spy()
        assert put_on(ours, choice) is choice and not lines()
        assert ours.model_options["transformer_options"]["optimized_attention_override"] is theirs

    @pytest.mark.parametrize("later", ["auto", "sdpa"])
    def test_a_later_choice_of_ours_replaces_an_earlier(self, model, later):
        ours = overridden(model, choose("sdpa", CPU))
        choice = choose(later, CPU)
        put_on(ours, choice)
        assert ours.model_options["transformer_options"].get("optimized_attention_override") is choice.override


@pytest.mark.parametrize("choice", ["fastest", "", None, 3])
def test_an_unknown_choice_is_refused(choice):
    with pytest.raises(ValueError, match=f"attention is {choice!r}, but must be one of auto, sdpa, sage, kitchen int8"):
        choose(choice)
