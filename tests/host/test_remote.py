"""Segmind Remote and Segmind Jobs in a running ComfyUI, against a Segmind on loopback."""

import json
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

import standins
from fake_segmind import Behaviour, FakeSegmind, Fault, Settings
from host.conftest import PHOTOGRAPHS
from host.graphs import node, remote
from host.server import Host, HostError
from host.websocket import Watcher
from segmind_host import environment, forget_key, private_folder, remember_jobs, write_key

pytestmark = pytest.mark.host


def receipt(entry, name="remote"):
    return json.loads(entry["outputs"][f"{name}_receipt"]["text"][0])


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def busy(seconds, until="", fails=False):
    """A local node that is, like a sampler, no output node: the host starts asynchronous nodes before those."""
    return {
        "local": node("ProbeSleep", seconds=seconds, until=until, fails=fails),
        "local_text": node("ProbeText", text=["local", 0]),
    }


def moment(entry, kind):
    """When the host said so, Unix seconds."""
    (details,) = [details for said, details in entry["status"]["messages"] if said == kind]
    return details["timestamp"] / 1000


def wait_for(fact, seconds=20.0):
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def rows(base):
    from klein9b.remote.service import list_jobs

    return list_jobs(private_folder(base))


def kept(base, request_id):
    return any(row.request_id == request_id and row.state == "KEPT" for row in rows(base))


class Spent:
    """What has reached Segmind and been charged since this was made."""

    def __init__(self, segmind):
        self._segmind = segmind
        self._before = len(segmind.requests), segmind.submits, len(segmind.ledger)

    @property
    def requests(self):
        return len(self._segmind.requests) - self._before[0]

    @property
    def submits(self):
        return self._segmind.submits - self._before[1]

    @property
    def charges(self):
        return len(self._segmind.ledger) - self._before[2]


@pytest.fixture
def spent(segmind):
    return Spent(segmind)


def test_it_runs_beside_a_local_node(host, segmind):
    """Alone the remote job takes a little over 6 s and the local node 8 s.

    First of all, while the rate limit's burst is whole: after ten requests each waits 1.2 s for its turn.
    """
    segmind.behave(Behaviour(run_seconds=6.0))
    entry = host.run(remote([], prompt="beside a local node") | busy(8.0))
    took = moment(entry, "execution_success") - moment(entry, "execution_start")
    assert took <= 1.1 * 8.0, f"{took:.2f} s"


class TestPicture:
    def test_two_photographs_become_a_picture_and_a_receipt(self, host, segmind, spent):
        entry = host.run(remote(["image_1.png", "image_2.png"], prompt="the cup of image 2 in the hand of image 1"))
        (path,) = host.pictures(entry)
        told = receipt(entry)
        assert spent.submits == spent.charges == 1
        assert pixels(path).std() > 1
        assert told["seed"] == 7 and told["cost_usd"] == pytest.approx(0.0402) and told["queue_seconds"] is not None
        assert told["request_id"] == segmind.jobs[-1].request_id
        assert len(segmind.jobs[-1].body["image_urls"]) == 2

    def test_references_go_up_in_order_with_addresses_last(self, host, segmind):
        online = "https://images.example.com/a.png\n\n  https://images.example.com/b.png  "
        host.run(remote(["image_2.png", "image_1.png"], prompt="in order", image_urls=online))
        *uploaded, a, b = segmind.jobs[-1].body["image_urls"]
        assert (a, b) == ("https://images.example.com/a.png", "https://images.example.com/b.png")
        photographs = [host.base / "input" / name for name in ("image_2.png", "image_1.png")]
        for address, photograph in zip(uploaded, photographs, strict=True):
            with urllib.request.urlopen(address) as sent:
                assert np.array_equal(pixels(sent), pixels(photograph))

    def test_while_it_waits_the_node_says_how_it_goes(self, host, segmind):
        segmind.behave(Behaviour(queue_seconds=1.5, run_seconds=1.5))
        with Watcher(host) as watcher:
            host.run(remote([], prompt="telling"), client_id=watcher.client_id)
            said = watcher.said()
        for words in ("In Segmind's queue for 1 s", "Being made, after", "s of about", "about $0.04", "7, $0.0402"):
            assert words in said
        assert said.count("s of about") < 15


class TestTime:
    def test_cancel_frees_the_host_and_keeps_the_paid_picture(self, host, segmind, spent):
        segmind.behave(Behaviour(run_seconds=2.0))
        graph = remote([], prompt="cancelled")
        with Watcher(host) as watcher:
            prompt_id = host.queue(graph, client_id=watcher.client_id)
            wait_for(lambda: spent.submits)
            time.sleep(0.3)
            pressed = time.time()
            host.post("/interrupt", {})
            entry = host.wait(prompt_id)
            said = watcher.said()
        latency = moment(entry, "execution_interrupted") - pressed
        assert latency < 0.5, f"{latency:.2f} s"
        job = segmind.jobs[-1]
        assert f"You stopped waiting for {job.request_id}. Segmind has no cancel: the job is charged" in said
        wait_for(lambda: kept(host.base, job.request_id))
        again = host.run(graph)
        assert spent.submits == spent.charges == 1
        assert receipt(again)["reused"] and receipt(again)["request_id"] == job.request_id

    def test_another_nodes_failure_loses_nothing(self, host, segmind, spent, tmp_path):
        segmind.behave(Behaviour(run_seconds=2.0))
        graph = remote([], prompt="beside a failure")
        accepted = tmp_path / "accepted"
        prompt_id = host.queue(graph | busy(30.0, until=str(accepted), fails=True))
        wait_for(lambda: spent.submits)
        accepted.touch()
        with pytest.raises(HostError, match="ProbeSleep was told to fail"):
            host.wait(prompt_id)
        job = segmind.jobs[-1]
        wait_for(lambda: kept(host.base, job.request_id))
        assert receipt(host.run(graph))["request_id"] == job.request_id
        assert spent.submits == spent.charges == 1
        assert "CancelledError" not in host.log() and "unhandled exception during" not in host.log()
        assert "The run ended before the picture came. Segmind has no cancel" in host.log()


class TestPaidOnce:
    def test_two_equal_nodes_share_one_job(self, host, spent):
        one, two = (remote(["image_1.png"], prompt="twice", name=name) for name in ("one", "two"))
        entry = host.run(one | two)
        assert spent.submits == spent.charges == 1
        assert receipt(entry, "one")["request_id"] == receipt(entry, "two")["request_id"]

    def test_the_same_inputs_later_cost_nothing(self, host, spent):
        host.run(remote([], prompt="later"))
        host.run(remote([], prompt="something between"))
        host.post("/free", {"free_memory": True})
        entry = host.run(remote([], prompt="later", name="another_node"))
        assert spent.charges == 2 and receipt(entry, "another_node")["reused"]

    def test_always_new_pays_on_every_run(self, host, spent):
        """The host's cache would answer the second run, had the node no fingerprint."""
        graph = remote([], prompt="always new", reuse="always_new")
        first, second = receipt(host.run(graph)), receipt(host.run(graph))
        assert spent.charges == 2 and first["request_id"] != second["request_id"]

    def test_a_failure_in_a_batch_loses_none_of_the_others(self, host, segmind, spent):
        segmind.behave(Behaviour(), Behaviour(error="CUDA out of memory"), Behaviour(), Behaviour())
        graph = remote([], prompt="four of them", count=4)
        with pytest.raises(HostError, match="out of memory.*not billed.*3 of 4 pictures of this batch are kept"):
            host.run(graph)
        assert (spent.submits, spent.charges) == (4, 3)
        entry = host.run(graph)
        assert (spent.submits, spent.charges) == (5, 4)
        assert [one["seed"] for one in receipt(entry)] == [7, 8, 9, 10]
        assert [one["reused"] for one in receipt(entry)].count(False) == 1
        results = private_folder(host.base) / "results"
        for path, one in zip(host.pictures(entry), receipt(entry), strict=True):
            assert np.array_equal(pixels(path), pixels(results / f"{one['sha256']}.png"))

    def test_skip_goes_on_with_what_there_is_and_the_next_run_fills_the_gap(self, host, segmind, spent):
        segmind.behave(Behaviour(), Behaviour(error="CUDA out of memory"), Behaviour())
        graph = remote([], prompt="three of them", count=3, on_item_error="skip")
        entry = host.run(graph)
        assert len(host.pictures(entry)) == 2
        (failed,) = [one for one in receipt(entry) if "error" in one]
        assert "CUDA out of memory" in failed["error"] and failed["seed"] in (7, 8, 9)
        whole = host.run(graph)
        assert len(host.pictures(whole)) == 3 and not any("error" in one for one in receipt(whole))
        assert (spent.submits, spent.charges) == (4, 3)

    def test_a_cap_is_kept(self, host, spent):
        with pytest.raises(HostError, match=r"would pass max_cost_usd \$0.0500.*1 of 2 pictures"):
            host.run(remote([], prompt="capped", count=2, max_cost_usd=0.05))
        assert spent.charges == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"prompt": "  "}, "The prompt is empty. Nothing was sent and nothing was charged. Say"),
            ({"image_urls": "http://images.example.com/a.png"}, "should start with https://. Nothing was sent"),
            ({"image_urls": "https://127.0.0.1/a.png"}, "is on this machine or a private network. Nothing was sent"),
            ({"seed": 2**32 - 1, "count": 2}, "seed should be a whole number from 0 to 4294967295"),
            ({"steps": 0}, "smaller than min of 1"),
            ({"steps": 101}, "bigger than max of 100"),
            ({"cfg": 0.5}, "smaller than min of 1.0"),
            ({"quality": 9}, "smaller than min of 10"),
            ({"count": 17}, "bigger than max of 16"),
            ({"seed": -1}, "smaller than min of 0"),
            ({"timeout_s": 3301}, "bigger than max of 3300"),
            ({"sampler": "dpm"}, "'dpm' not in"),
            ({"aspect_ratio": "7:3"}, "'7:3' not in"),
            ({"image_format": "gif"}, "'gif' not in"),
        ],
    )
    def test_what_can_be_known_here_is_said_here(self, host, spent, changes, words):
        with pytest.raises(HostError) as caught:
            host.run(remote([], **{"prompt": "refused", **changes}))
        assert words in str(caught.value)
        assert spent.requests == 0

    def test_a_nan_image_is_named(self, host, spent):
        graph = remote(["image_1.png"], prompt="not a number")
        graph |= {"odd": node("ProbeImage", value="nan", side=64)}
        graph["remote"]["inputs"]["images.image_2"] = ["odd", 0]
        words = "image_2: The image holds NaN or infinite pixels.* Nothing was sent and nothing was charged"
        with pytest.raises(HostError, match=words):
            host.run(graph)
        assert spent.requests == 0

    def test_no_key(self, host, segmind, spent):
        forget_key(host.base)
        try:
            with pytest.raises(HostError) as caught:
                host.run(remote([], prompt="no key"))
        finally:
            write_key(host.base, segmind.key)
        assert "No Segmind API key" in str(caught.value) and "chmod 600" in str(caught.value)
        assert "Nothing was sent and nothing was charged." in str(caught.value)
        assert spent.requests == 0

    def test_a_wrong_key(self, host, segmind, spent):
        write_key(host.base, "SG_" + "0123456789abcdef")
        try:
            with pytest.raises(HostError, match="401.*Unauthorized.*does not bill refused.*Check SEGMIND_API_KEY"):
                host.run(remote([], prompt="wrong key"))
        finally:
            write_key(host.base, segmind.key)
        assert spent.charges == 0
        assert receipt(host.run(remote([], prompt="wrong key")))["cost_usd"]

    def test_no_credits(self, host, segmind, spent):
        segmind.settings.credits, before = 0.0, segmind.settings.credits
        try:
            with pytest.raises(HostError, match="refused.*406.*redit.*does not bill refused.*Add credits at Segmind"):
                host.run(remote([], prompt="poor"))
        finally:
            segmind.settings.credits = before
        assert spent.charges == 0

    def test_a_moderated_prompt(self, host, spent):
        with pytest.raises(HostError, match="job failed.*moderation.*Failed jobs are not billed.*request_id"):
            host.run(remote([], prompt="something forbidden"))
        assert spent.charges == 0

    def test_a_ratio_the_server_does_not_know_is_said_in_its_words(self, host, segmind, spent):
        segmind.script("submit", Fault.error("Invalid value for parameter 'aspect_ratio': '21:9'", 406))
        with pytest.raises(HostError, match="Invalid value for parameter 'aspect_ratio': '21:9'"):
            host.run(remote([], prompt="wide", aspect_ratio="21:9"))
        assert spent.charges == 0

    def test_a_batch_past_ten_is_refused_with_how_many_came_from_where(self, host, spent):
        graph = remote(["image_1.png", "image_2.png"], prompt="too many", image_urls="https://images.example.com/a.png")
        graph["batch"] = node("RepeatImageBatch", image=["photo_1", 0], amount=9)
        graph["remote"]["inputs"]["images.image_1"] = ["batch", 0]
        with pytest.raises(HostError, match="11 reference images .9 from image_1, 1 from image_2, 1 from image_urls"):
            host.run(graph)
        assert spent.requests == 0


class TestJobs:
    def jobs(self, host, request_id=""):
        graph = {"jobs": node("SegmindJobs", request_id=request_id, limit=500)}
        graph["save"] = node("SaveImage", images=["jobs", 0], filename_prefix="recovered")
        entry = host.run(graph)
        return entry["outputs"]["jobs"]["text"][0], host.pictures(entry)

    def test_it_lists_what_was_sent_and_the_balance(self, host, segmind):
        job = receipt(host.run(remote([], prompt="to be listed")))
        text, pictures = self.jobs(host)
        (line,) = [line for line in text.splitlines() if job["request_id"] in line]
        assert line.startswith("KEPT | ") and "$0.0402" in line and "to be listed" in line
        assert text.startswith(f"Balance: ${segmind.balance:.2f}")
        assert pictures == []

    def test_it_runs_every_time(self, host):
        before, _ = self.jobs(host)
        host.run(remote([], prompt="between two lists"))
        after, _ = self.jobs(host)
        assert "between two lists" in after and "between two lists" not in before

    def test_it_recovers_a_picture_without_paying(self, host, spent):
        entry = host.run(remote([], prompt="to be recovered"))
        _, (recovered,) = self.jobs(host, receipt(entry)["request_id"])
        assert np.array_equal(pixels(recovered), pixels(host.pictures(entry)[0]))
        assert spent.submits == spent.charges == 1

    def test_it_recovers_a_job_of_another_machine(self, host, segmind, spent):
        body = {"prompt": "from elsewhere", "seed": 1}
        request = urllib.request.Request(
            f"{segmind.api_url}/v2/flux-2-klein-9b",
            json.dumps(body).encode(),
            {"x-api-key": segmind.key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            request_id = json.load(answer)["request_id"]
        _, pictures = self.jobs(host, request_id)
        assert len(pictures) == 1 and spent.submits == 1

    def test_a_wrong_request_id_is_one_sentence(self, host, spent):
        with pytest.raises(HostError, match="is not a request_id"):
            self.jobs(host, "../v1/get-user-credits")
        assert spent.requests == 0

    def test_without_a_key_the_list_is_shown_all_the_same(self, host, segmind):
        forget_key(host.base)
        try:
            text, _ = self.jobs(host)
        finally:
            write_key(host.base, segmind.key)
        assert text.startswith("Balance: not known. No Segmind API key") and len(text.splitlines()) > 10

    def test_without_a_key_a_kept_picture_is_shown(self, host, segmind):
        entry = host.run(remote([], prompt="shown without a key"))
        forget_key(host.base)
        spent = Spent(segmind)
        try:
            text, (shown,) = self.jobs(host, receipt(entry)["request_id"])
        finally:
            write_key(host.base, segmind.key)
        assert np.array_equal(pixels(shown), pixels(host.pictures(entry)[0]))
        assert spent.requests == 0 and "No Segmind API key" in text


def nothing():
    return {"number": node("PrimitiveInt", value=1), "shown": node("PreviewAny", source=["number", 0])}


class TestLostJournal:
    @pytest.mark.parametrize("moment", ["while the host runs", "while it does not"])
    def test_nothing_is_paid_again_and_the_person_is_told(self, checkout, tmp_path, moment):
        graph = remote([], prompt="survives its journal")
        remember_jobs(tmp_path, seconds=0.1)
        with FakeSegmind(settings=Settings(pixels=64 * 64)) as segmind:
            with Host(checkout, tmp_path, environment={"SEGMIND_API_KEY": segmind.key} | environment(segmind)) as host:
                before = host.run(graph)
                host.post("/free", {"free_memory": True})
                host.run(nothing())  # the host forgets what it has made after a prompt, not before
                if moment == "while it does not":
                    host.kill()
                (private_folder(tmp_path) / "jobs.sqlite").write_text("this is no database. " * 500)
                if moment == "while it does not":
                    host.start()
                after = host.run(remote([], prompt="survives its journal", name="again"))
                (kept,) = private_folder(tmp_path).glob("jobs.sqlite.damaged-*[0-9a-f]")
                log = host.log()
            assert segmind.submits == len(segmind.ledger) == 1
        told = receipt(after, "again")
        assert told["reused"] and told["request_id"] == receipt(before)["request_id"]
        assert kept.name in told["note"] and kept.name in log
        assert log.count("HTTP Request") == 0, "httpx says so for every look at a job"


def fetch(host, path, **headers):
    """The body of whatever the host answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(host.url + path, headers=headers), timeout=10) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        return error.read()


class TestKey:
    WAYS_IN = (
        "/userdata?dir=..&recurse=true",
        "/userdata?dir=../__segmind&recurse=true",
        "/userdata/..%2F__segmind%2Fsegmind.key",
        "/userdata/segmind.key",
        "/v2/userdata?path=..%2F__segmind",
        "/view?filename=segmind.key&subfolder=../user/__segmind&type=input",
        "/view?filename=../user/__segmind/segmind.key&type=output",
        "/users",
        "/settings",
    )

    def test_no_output_holds_it(self, host, segmind):
        key = segmind.key.encode()
        with Watcher(host) as watcher:
            entry = host.run(remote(["image_1.png"], prompt="with a key"))
            with pytest.raises(HostError):
                host.run(remote([], prompt="a forbidden thing"))
        places = [*watcher.messages, *(path.read_bytes() for path in host.pictures(entry)), host.log_path.read_bytes()]
        places += [fetch(host, path) for path in ("/history", "/queue", "/object_info", "/system_stats", "/prompt")]
        assert any(b"with a key" in place for place in places)
        assert not any(key in place for place in places)
        assert segmind.key_leaks == ()

    @pytest.mark.parametrize("path", WAYS_IN)
    @pytest.mark.parametrize("user", ["default", "__segmind"])
    def test_its_folder_is_not_served(self, host, segmind, path, user):
        body = fetch(host, path, **{"comfy-user": user})
        assert segmind.key.encode() not in body and b"jobs.sqlite" not in body

    @pytest.mark.parametrize("where", ["prompt", "negative_prompt", "image_urls"])
    def test_one_in_an_input_is_never_queued(self, host, spent, where):
        """The host keeps the inputs of whatever it queues in its history and in every PNG."""
        with pytest.raises(HostError, match="looks like a Segmind API key"):
            host.run(remote([], **{"prompt": "a fox", where: "SG_" + "00112233445566ff"}))
        assert b"SG_" + b"00112233445566ff" not in fetch(host, "/history") + fetch(host, "/queue")
        assert "SG_" + "00112233445566ff" not in host.log()
        assert spent.requests == 0

    def test_one_that_comes_through_a_link_stops_the_run(self, host, spent):
        graph = remote([], prompt="")
        graph["text"] = node("PrimitiveString", value="SG_" + "00112233445566ff")
        graph["remote"]["inputs"]["prompt"] = ["text", 0]
        with pytest.raises(HostError, match="The input prompt holds what looks like a Segmind API key"):
            host.run(graph)
        assert spent.requests == 0


def test_a_killed_host_picks_its_job_up_and_pays_once(checkout, tmp_path):
    """kill -9 between submit and result, restart, the same graph."""
    standins.write_photographs(tmp_path / "input", PHOTOGRAPHS, longest_side=128)
    remember_jobs(tmp_path, seconds=0.3)
    graph = remote(["image_1.png", "image_2.png"], prompt="survives")
    with FakeSegmind(Behaviour(run_seconds=4.0), Settings(pixels=64 * 64)) as segmind:
        with Host(checkout, tmp_path, environment={"SEGMIND_API_KEY": segmind.key} | environment(segmind)) as host:
            host.queue(graph)
            wait_for(lambda: any(row.request_id == job.request_id for job in segmind.jobs for row in rows(tmp_path)))
            host.kill()
            assert segmind.ledger == ()
            host.start()
            entry = host.run(graph)
            assert len(host.pictures(entry)) == 1
        assert segmind.submits == len(segmind.ledger) == len(segmind.jobs) == 1
        assert receipt(entry)["request_id"] == segmind.jobs[0].request_id
        assert segmind.key not in host.log()
