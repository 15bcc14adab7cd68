"""Accepted jobs: what the account's record may decide, and what only looks like an answer."""

import pytest
from lanes import FastClock, a_lane, request, run

from fake_segmind import Behaviour, Fault
from klein9b.remote import errors, jobs
from klein9b.remote.service import list_jobs

WEEK_AND_A_DAY_S = 8 * 86400.0
FOLLOW_S = 40.0


@pytest.fixture
def clock():
    return FastClock(50.0)


@pytest.fixture
def lane(fake, tmp_path, clock):
    with a_lane(fake, tmp_path, clock=clock, in_flight=2) as made:
        yield made


def test_a_job_that_runs_keeps_its_reservation(fake, lane):
    """Its record names a cost of 0, which is no price: a third job would pass the cap."""
    fake.behave(Behaviour(run_seconds=2.5), Behaviour(run_seconds=1.0))
    fake.behaviour = Behaviour(run_seconds=0.1)
    fake.script("status", *[Fault.early_404()] * 14)
    run(lane, *(request(seed=n) for n in range(3)), max_cost_usd=0.09, on_item_error="skip")
    assert len(fake.ledger) == 2


@pytest.mark.parametrize("route", ["history_item", "output"])
def test_only_a_no_makes_a_picture_expire(fake, lane, clock, tmp_path, monkeypatch, route):
    """A clock that is a week ahead and a host that is down say nothing about the picture."""
    monkeypatch.setattr(jobs, "FOLLOW_S", FOLLOW_S)
    fake.script(route, Fault.html(503), forever=True)
    if route == "history_item":
        fake.script("status", Fault.early_404(), forever=True)
    with pytest.raises(errors.StillRunning):
        run(lane, request(), timeout_s=10)
    clock.slept = WEEK_AND_A_DAY_S
    with pytest.raises(errors.StillRunning):
        run(lane, request(), timeout_s=FOLLOW_S)
    assert list_jobs(tmp_path)[0].state in ("ACCEPTED", "COMPLETED")
    fake.plan.clear()
    clock.slept = 0.0
    assert run(lane, request()) and fake.submits == 1


@pytest.mark.parametrize("label", ["a" * 70, "", "xn--a"], ids=["long", "empty", "no punycode"])
def test_an_address_that_is_none_is_looked_up_in_the_record(fake, lane, label):
    url = f"https://{label}.segmind.com/x.png"
    fake.script("result", Fault.patch({"images": [{"url": url}], "output": url}), forever=True)
    assert run(lane, request()) and fake.submits == 1


@pytest.mark.parametrize("route", ["result", "history_item"])
def test_the_picture_of_another_job_is_not_taken(fake, lane, route):
    (cat,) = run(lane, request("a cat"))
    named, url = cat.receipt["request_id"], fake.service.output_urls(fake.jobs[0])[0]
    if route == "history_item":
        fake.script("status", Fault.early_404(), forever=True)
    answer = {"request_id": named, "generation_url": url, "images": [{"url": url}], "output": url}
    fake.script(route, Fault.patch(answer))
    (dog,) = run(lane, request("a dog"))
    assert dog.receipt["sha256"] != cat.receipt["sha256"]


def test_the_failure_of_another_job_is_not_believed(fake, lane):
    fake.script("status", Fault.respond(422, {"status": "FAILED", "request_id": "another-job", "error": "x"}))
    assert run(lane, request()) and fake.submits == 1


def test_a_refusal_may_name_the_gateways_own_request(fake, lane):
    fake.script("status", Fault.respond(401, {"request_id": "trace-1"}), Fault.respond(401, {"request_id": "trace-2"}))
    with pytest.raises(errors.StillRunning, match="401"):
        run(lane, request())
