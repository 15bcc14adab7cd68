"""Klein 9B Switch under ComfyUI's own executor, Segmind Remote beside it on the fake: one lane runs, one is still."""

import asyncio
import itertools
import math

import pytest
import torch
from fault_set import GATEWAY, PARTIAL, REDIRECTS, SHAPES, WIRE, name
from lanes import a_lane, account_of, small_fake

from fake_segmind import Behaviour, Fault
from host.graphs import REMOTE_WIDGETS, node

LOCAL, SEGMIND, WHERE_IT_FITS = "local", "Segmind", "local where it fits, else Segmind"
SIDE = 16
OOM = "out of memory on this card"
_IDS = itertools.count()


class Log:
    """What the stand-ins of the local lane did, and the picture that came through."""

    def __init__(self):
        self.local_runs, self.plans, self.pictures, self.fails = 0, 0, [], False


def stand_ins(log):
    """The local lane, the plan and an output, as small as they can be."""

    class Gpu:
        RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", ""

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        @classmethod
        def IS_CHANGED(cls):
            return math.nan

        def run(self):
            log.local_runs += 1
            if log.fails:
                raise torch.OutOfMemoryError(OOM)
            return (torch.full((1, SIDE, SIDE, 3), 0.25),)

    class Fits:
        RETURN_TYPES, FUNCTION, CATEGORY = ("BOOLEAN",), "run", ""

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"answer": ("BOOLEAN", {})}}

        def run(self, answer):
            log.plans += 1
            return (answer,)

    class Shown:
        RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "", True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"image": ("IMAGE", {})}}

        def run(self, image):
            log.pictures.append(image)
            return {}

    return {"TestGpu": Gpu, "TestFits": Fits, "TestShown": Shown}


class Server:
    client_id, last_node_id = None, None

    def send_sync(self, *_):
        pass


@pytest.fixture
def fake():
    with small_fake() as server:
        server.behaviour = Behaviour(run_seconds=0.1)
        yield server


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def press(comfy_host, fake, log, tmp_path, monkeypatch):
    """Presses Run: the one error's sentence, or empty."""
    import execution
    import nodes

    from klein9b.nodes import segmind_remote
    from klein9b.nodes.segmind_remote import SegmindRemote
    from klein9b.nodes.switch import Klein9BSwitch
    from klein9b.remote import service

    classes = stand_ins(log) | {"SegmindRemote": SegmindRemote, "Klein9BSwitch": Klein9BSwitch}
    for each, kind in classes.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, each, kind)
    account = account_of(fake, tmp_path)
    monkeypatch.setattr(segmind_remote, "open_account", lambda: account)
    executor = execution.PromptExecutor(
        Server(), execution.CacheType.CLASSIC, {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    )

    def run(graph):
        prompt_id = f"p{next(_IDS)}"
        good, error, outputs, _ = asyncio.run(execution.validate_prompt(prompt_id, graph, None))
        assert good, error
        executor.execute(graph, prompt_id, {}, outputs)
        told = [said for kind, said in executor.status_messages if kind == "execution_error"]
        return told[0]["exception_message"] if told else ""

    with a_lane(fake, tmp_path) as lane:
        monkeypatch.setitem(service._SESSIONS, account, lane)
        yield run


def graph(lane, *, fits=None, without=(), **remote):
    sockets = {"local": ["gpu", 0], "remote": ["segmind", 0]} | ({} if fits is None else {"fits": ["plan", 0]})
    kept = {key: link for key, link in sockets.items() if key not in without}
    widgets = REMOTE_WIDGETS | {"prompt": "a red fox", "timeout_s": 600} | remote
    return {
        "gpu": node("TestGpu"),
        "segmind": node("SegmindRemote", **widgets),
        "plan": node("TestFits", answer=bool(fits)),
        "switch": node("Klein9BSwitch", lane=lane, **kept),
        "shown": node("TestShown", image=["switch", 0]),
    }


def assert_paid_at_most_once(fake):
    assert all(count <= 1 for count in fake.charges_by_body.values()) and len(fake.ledger) <= 1
    assert not fake.key_leaks


class TestLanes:
    def test_the_default_is_local_and_sends_nothing(self, press, fake, log):
        from klein9b.nodes.switch import Klein9BSwitch

        (lane,) = [one for one in Klein9BSwitch.define_schema().inputs if one.id == "lane"]
        assert lane.default == LOCAL
        assert press(graph(lane.default)) == ""
        assert (log.local_runs, len(fake.requests)) == (1, 0)
        assert log.pictures[0].shape == (1, SIDE, SIDE, 3)

    def test_segmind_leaves_the_card_alone_and_is_paid_once(self, press, fake, log):
        for _ in range(3):
            assert press(graph(SEGMIND)) == ""
        assert log.local_runs == 0 and len(fake.ledger) == fake.submits == 1
        assert log.pictures[0].shape == (1, 32, 32, 3)

    @pytest.mark.parametrize("fits", [True, False])
    def test_the_plan_chooses_where_it_was_allowed_to(self, press, fake, log, fits):
        assert press(graph(WHERE_IT_FITS, fits=fits)) == ""
        assert (log.local_runs, len(fake.ledger)) == ((1, 0) if fits else (0, 1))
        assert bool(fake.requests) is not fits

    @pytest.mark.parametrize("lane", [LOCAL, SEGMIND])
    def test_a_chosen_lane_asks_no_plan(self, press, fake, log, lane):
        press(graph(lane, fits=lane == SEGMIND))
        assert log.plans == 0 and log.local_runs == (lane == LOCAL) and len(fake.ledger) == (lane == SEGMIND)

    def test_lanes_in_turn(self, press, fake, log):
        """Neither a kept picture of the other lane nor another press costs anything."""
        for lane in (LOCAL, SEGMIND, LOCAL, SEGMIND, LOCAL):
            assert press(graph(lane)) == ""
        assert [int(one.shape[1]) for one in log.pictures] == [SIDE, 32, SIDE, 32, SIDE]
        assert len(fake.ledger) == fake.submits == 1


class TestNothingSpentUnasked:
    @pytest.mark.parametrize("lane", [LOCAL, WHERE_IT_FITS])
    def test_an_error_on_the_card_never_becomes_a_job(self, press, fake, log, lane):
        log.fails = True
        for _ in range(2):
            assert OOM in press(graph(lane, fits=True))
        assert log.local_runs == 2 and not fake.requests

    @pytest.mark.parametrize(
        ("lane", "without", "fits", "sentence"),
        [
            (LOCAL, ("local",), None, "Nothing is connected to local: connect the picture from VAE Decode"),
            (SEGMIND, ("remote",), None, "Nothing is connected to remote: connect Segmind Remote"),
            (WHERE_IT_FITS, (), None, "Nothing says whether the job fits: connect fits of Klein 9B Plan"),
            (WHERE_IT_FITS, ("remote",), False, "The plan says that this does not fit here, and nothing is connected"),
            (WHERE_IT_FITS, ("local",), True, "Nothing is connected to local"),
        ],
    )
    def test_a_lane_that_cannot_be_had_is_one_sentence(self, press, fake, log, lane, without, fits, sentence):
        said = press(graph(lane, fits=fits, without=without))
        assert said.startswith(sentence) and said.strip().endswith("Nothing was loaded, sent or charged.")
        assert log.local_runs == 0 and not fake.requests

    @pytest.mark.parametrize(
        ("lane", "fits"), [("remote", None), ("", None), (WHERE_IT_FITS, "False"), (WHERE_IT_FITS, 0)]
    )
    def test_an_odd_word_from_a_link_is_no_lane(self, comfy_host, lane, fits):
        from klein9b.nodes.switch import Klein9BSwitch

        with pytest.raises(ValueError, match="but must be .*Nothing was loaded, sent or charged"):
            Klein9BSwitch.check_lazy_status(lane, local=None, remote=None, fits=fits)

    def test_both_lanes_refused_is_one_sentence_and_nothing_is_lost(self, press, fake, log):
        fake.script("submit", Fault.error("Insufficient credits", 406))
        said = press(graph(WHERE_IT_FITS, fits=False))
        assert "Insufficient credits" in said and "not bill" in said and len(said.strip().splitlines()) == 1
        assert log.local_runs == 0 and not fake.ledger
        assert press(graph(WHERE_IT_FITS, fits=False)) == "" and len(fake.ledger) == 1


class TestAtMostOneCharge:
    """A run that died of memory, then Segmind with a fault on the way, then Segmind again, then local again."""

    @pytest.mark.parametrize("fault", WIRE + GATEWAY + PARTIAL + REDIRECTS + SHAPES, ids=name)
    def test_every_fault_of_the_submit(self, press, fake, log, fault):
        log.fails = True
        assert OOM in press(graph(LOCAL))
        assert not fake.requests
        fake.script("submit", fault)
        said = [press(graph(SEGMIND)) for _ in range(2)]
        assert_paid_at_most_once(fake)
        assert len(fake.jobs) <= 1
        if fake.jobs:
            assert said == ["", ""]
        assert OOM in press(graph(LOCAL))
        assert_paid_at_most_once(fake)

    @pytest.mark.parametrize("route", ["status", "result", "output"])
    @pytest.mark.parametrize("fault", [Fault.html(502), Fault.close_at(40), Fault.truncated_json()], ids=name)
    def test_faults_behind_the_submit(self, press, fake, log, route, fault):
        fake.script(route, fault)
        assert [press(graph(WHERE_IT_FITS, fits=False)) for _ in range(2)] == ["", ""]
        assert len(fake.ledger) == fake.submits == 1 and log.local_runs == 0

    def test_out_of_memory_at_segmind_is_not_billed_and_the_next_run_is_paid_once(self, press, fake, log):
        fake.behave(Behaviour(error="CUDA out of memory"))
        assert "out of memory" in press(graph(SEGMIND)) and not fake.ledger
        assert [press(graph(SEGMIND)) for _ in range(2)] == ["", ""]
        assert fake.submits == 2 and len(fake.ledger) == 1 and log.local_runs == 0
