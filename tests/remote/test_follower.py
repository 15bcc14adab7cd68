"""Accepted jobs: what the account's record may decide, and what only looks like an answer."""

from random import Random
from types import SimpleNamespace

import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from lanes import FastClock, a_lane, request, run

from fake_segmind import Behaviour, Fault
from klein9b.remote import errors, jobs
from klein9b.remote.cadence import Durations
from klein9b.remote.follower import Follower
from klein9b.remote.governor import Governor
from klein9b.remote.protocol import Metrics, Reported, Result, Source, Status
from klein9b.remote.retry import Retrier
from klein9b.remote.rows import Row, State
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


class OneJob:
    """Segmind, and the journal, for one job of that length, which tells what its making took or nothing."""

    def __init__(self, clock, length_s, told_s):
        self.hosts = SimpleNamespace(api="", account="")
        self.submitted_at, self.length_s, self.told_s = clock.wall(), length_s, told_s
        self.clock, self.looks, self.running_s = clock, [], 0.0

    async def status(self, request_id):
        self.looks.append(self.clock.wall() - self.submitted_at)
        if self.looks[-1] >= self.length_s:
            return Status(Reported.COMPLETED)
        self.running_s = self.looks[-1]
        return Status(Reported.PROCESSING)

    async def result(self, request_id):
        return Result(Source(url="https://images.segmind.com/x.png"), Metrics(inference_s=self.told_s))

    def row(self, id):
        return Row(1, "x", 1, State.ACCEPTED, request_id="r", inference_s=self.told_s, submitted_at=self.submitted_at)

    def settle(self, id, *metrics):
        assert metrics[-1] == self.told_s

    def completed(self, id, url):
        assert url

    def durations_s(self):
        return []


async def followed(clock, length_s, told_s):
    """What was learnt of a job, when it was last seen running, and when done."""
    job, rng = OneJob(clock, length_s, told_s), Random(1)
    follower = Follower(job, job, None, None, None, Retrier(Governor(per_minute=6000, clock=clock), rng), rng)
    learnt = []
    follower.durations.learn = learnt.append
    await follower.poll(job.row(1), lambda state: None, clock.monotonic() + 3300)
    return learnt, job.running_s, job.looks[-1]


@settings(deadline=None, max_examples=60)
@given(st.floats(0.1, 600.0), st.one_of(st.none(), st.floats(0.0, 700.0)))
def test_what_is_learnt_of_a_job_lies_between_the_last_look_while_it_ran_and_the_first_at_its_end(length, told):
    learnt, running, done = virtual_time.run(lambda clock: followed(clock, length, told))
    assert running < length <= done
    if told is not None:
        assert learnt == [pytest.approx(min(max(told, running), done))]
    else:
        assert learnt == ([pytest.approx((running + done) / 2)] if running else [])


def test_a_job_that_tells_its_time_is_learnt_as_it_tells_it():
    learnt, _, done = virtual_time.run(lambda clock: followed(clock, 13.6, 13.5))
    assert learnt == [13.5] and done < 13.6 + 3.0


def test_a_job_that_ended_unseen_and_tells_nothing_teaches_nothing():
    assert virtual_time.run(lambda clock: followed(clock, 0.05, None))[0] == []


def test_a_lane_learns_from_its_jobs(lane, fake):
    fake.behave(Behaviour(run_seconds=0.02))
    run(lane, request())
    known = lane._opened[0]._follower.durations
    assert known.expected_s < Durations().expected_s
