"""Every fault of the fake on every route: at most one charge, no key elsewhere, an end in time, a way on."""

import time

import numpy as np
import pytest
from fault_set import GATEWAY, PARTIAL, REDIRECTS, SHAPES, WIRE, name
from lanes import PACE, a_lane, request, run, small_fake

from fake_segmind import Behaviour, Fault
from klein9b.remote.errors import DownloadRefused, OutcomeUnknown, Rejected, SegmindError, StillRunning

PHOTO = np.full((8, 8, 3), 0.5, np.float32)
TIMEOUT_S = 600.0
SLACK_S = 1.5  # real seconds: one HTTP call that is cut off at its own timeout, and the machine


@pytest.fixture
def fake():
    with small_fake() as server:
        server.behaviour = Behaviour(run_seconds=0.1)
        yield server


@pytest.fixture
def lane(fake, tmp_path):
    with a_lane(fake, tmp_path) as made:
        yield made


def attempt(lane, timeout_s=TIMEOUT_S):
    """A picture or an error, in time."""
    began = time.monotonic()
    try:
        return run(lane, request(), arrays=[PHOTO], timeout_s=timeout_s)[0]
    except SegmindError as error:
        return error
    finally:
        assert time.monotonic() - began < timeout_s / PACE + SLACK_S


def assert_safe(fake):
    assert all(count <= 1 for count in fake.charges_by_body.values())
    assert len(fake.jobs) <= 1
    assert not fake.key_leaks
    assert not fake.requests_to("evil")


@pytest.mark.parametrize("fault", WIRE + GATEWAY + PARTIAL + REDIRECTS + SHAPES, ids=name)
def test_a_fault_on_the_submit_never_pays_twice(fake, lane, fault):
    fake.script("submit", fault)
    first = attempt(lane)
    assert_safe(fake)
    assert fake.submits == 1 or fault.name == "rate_limited"
    if fake.jobs:
        assert not isinstance(first, SegmindError), first
    else:
        assert isinstance(first, (OutcomeUnknown, Rejected)), first
        again = attempt(lane)
        assert isinstance(again, OutcomeUnknown) and fake.submits == 1
    assert_safe(fake)


@pytest.mark.parametrize("route", ["upload", "status", "result", "output"])
@pytest.mark.parametrize("fault", [f for f in WIRE + GATEWAY if f.delivery.cut in (None, 0, 40)], ids=name)
def test_a_fault_on_what_costs_nothing_is_asked_again(fake, lane, route, fault):
    fake.script(route, fault)
    first = attempt(lane)
    if (route, fault.name) == ("output", "gzip_bomb"):
        assert isinstance(first, DownloadRefused)
        first = attempt(lane)
    assert not isinstance(first, SegmindError), first
    assert fake.submits == len(fake.ledger) == 1
    assert_safe(fake)


@pytest.mark.parametrize("route", ["status", "result", "output", "upload"])
@pytest.mark.parametrize("fault", REDIRECTS, ids=name)
def test_a_redirect_is_an_error_and_the_job_is_not_lost(fake, lane, route, fault):
    fake.script(route, fault)
    first = attempt(lane)
    assert_safe(fake)
    assert isinstance(first, (SegmindError)) or route == "output"
    again = attempt(lane)
    assert not isinstance(again, SegmindError), again
    assert fake.submits == len(fake.ledger) == 1
    assert_safe(fake)


@pytest.mark.parametrize("route", ["status", "output"])
def test_what_never_heals_ends_by_the_deadline_and_is_picked_up_later(fake, lane, route):
    fake.script(route, Fault.html(502), forever=True)
    first = attempt(lane, timeout_s=100.0)
    assert isinstance(first, StillRunning) and first.request_id == fake.jobs[0].request_id
    fake.plan.clear()
    assert not isinstance(attempt(lane), SegmindError)
    assert fake.submits == len(fake.ledger) == 1


@pytest.mark.parametrize("route", ["status", "result"])
@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_look_is_repeated_once_and_then_resumable(fake, lane, route, code):
    fake.script(route, Fault.error("no", code))
    assert not isinstance(attempt(lane), SegmindError)


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_stops_working_leaves_the_job_resumable(fake, lane, code):
    fake.script("status", Fault.error("no", code), Fault.error("no", code))
    first = attempt(lane)
    assert isinstance(first, StillRunning) and str(code) in first.what
    assert not isinstance(attempt(lane), SegmindError)
    assert fake.submits == 1


@pytest.mark.parametrize("times", [1, 4])
def test_a_replica_that_has_not_heard_of_the_job_is_waited_for(fake, lane, times):
    fake.script("status", *[Fault.early_404()] * times)
    assert not isinstance(attempt(lane), SegmindError)
    assert fake.submits == 1


def test_completed_before_the_result_exists(fake, lane):
    empty = Fault.patch({}, drop=("images", "output"))
    fake.script("result", Fault.early_404(), empty, Fault.respond(200, {}))
    assert not isinstance(attempt(lane), SegmindError)
    assert fake.submits == 1


def test_a_result_that_never_comes_is_taken_from_the_history(fake, lane):
    fake.script("result", Fault.early_404(), forever=True)
    assert not isinstance(attempt(lane), SegmindError)
    assert fake.requests_to("history_item")


def test_server_named_addresses_are_not_followed(fake, lane):
    fake.script("submit", Fault.foreign_urls())
    assert not isinstance(attempt(lane), SegmindError)
    assert_safe(fake)


def test_a_picture_elsewhere_is_refused_and_found_in_the_history(fake, lane):
    moved = {"output": "https://evil.example/a.png", "images": [{"url": "https://evil.example/a.png"}]}
    fake.script("result", Fault.patch(moved), forever=True)
    assert not isinstance(attempt(lane), SegmindError)
    assert_safe(fake)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 406, 410, 413, 422])
def test_a_refused_submit_costs_nothing_and_says_so(fake, lane, code):
    fake.script("submit", Fault.error("in the server's own words", code))
    first = attempt(lane)
    assert isinstance(first, Rejected) and "in the server's own words" in str(first)
    assert "not bill" in first.money and not fake.jobs
    assert not isinstance(attempt(lane), SegmindError)


def test_unknown_states_are_waited_through(fake, lane):
    words = ("CANCELED", "in_queue", "processing")
    fake.script("status", *[Fault.respond(200, {"status": word}) for word in words])
    assert not isinstance(attempt(lane), SegmindError)


def test_a_state_in_lower_case_is_understood(fake, lane):
    fake.script("status", Fault.patch({"status": "completed"}), forever=True)
    fake.behaviour = Behaviour()
    assert not isinstance(attempt(lane), SegmindError)
