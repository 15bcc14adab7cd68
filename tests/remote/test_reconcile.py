"""Lost submits are found in the account's history, whatever our clock says."""

import asyncio
from datetime import datetime, timezone

import pytest
from lanes import request, run

from fake_segmind import Behaviour, Fault
from klein9b.remote.client import Client
from klein9b.remote.errors import OutcomeUnknown
from klein9b.remote.reconcile import Reconciler
from klein9b.remote.service import Terms, list_jobs

DAY_S = 86400.0


@pytest.fixture
def fake(fake):
    fake.script("submit", Fault.reset_after_request())
    return fake


def lose(fake, lane):
    """A paid job whose answer was lost and that the history does not show yet."""
    fake.settings.history_lag_seconds = 7200.0
    with pytest.raises(OutcomeUnknown):
        run(lane, request())
    fake.settings.history_lag_seconds = 0.0


@pytest.mark.parametrize("days", [-3, 3])
def test_the_days_asked_for_are_the_servers(fake, lane, clock, days):
    clock.slept = days * DAY_S
    assert run(lane, request())
    assert fake.submits == 1


@pytest.mark.parametrize("ahead_s", [600.0, -3 * DAY_S], ids=["ten minutes fast", "three days slow"])
def test_a_clock_set_right_after_the_submit_hides_nothing(fake, lane, clock, ahead_s):
    clock.slept = ahead_s
    lose(fake, lane)
    clock.slept = 0.0
    assert run(lane, request())[0].receipt["reused"]
    assert fake.submits == 1


@pytest.mark.parametrize("spelling", ["%Y-%m-%dT%H:%M:%S.12345Z", "%Y-%m-%d %H:%M:%S UTC", "%s"])
def test_an_old_job_with_the_same_body_is_old_however_its_date_is_written(fake, lane, clock, spelling):
    """It was paid for earlier: taken for the lost one, its picture would be shown as that of this run."""
    two_days_ago = datetime.fromtimestamp(clock.wall() - 2 * DAY_S, timezone.utc)
    old = {"request_id": "another-day", "request_body": request().body(), "status": "COMPLETED"}
    fake.script("history", Fault.patch({"data": [{**old, "created_at": spell(two_days_ago, spelling)}]}), forever=True)
    with pytest.raises(OutcomeUnknown):
        run(lane, request())


def spell(moment, spelling):
    return str(int(moment.timestamp())) if spelling == "%s" else moment.strftime(spelling)


@pytest.mark.parametrize("skew_s", [-1e11, 1e12], ids=["before 1970", "after 9999"])
def test_a_server_whose_time_is_no_date_is_asked_all_the_same(fake, lane, monkeypatch, skew_s):
    async def history(self, first, last, page=1):
        return (), skew_s

    monkeypatch.setattr(Client, "history", history)
    with pytest.raises(OutcomeUnknown):
        run(lane, request())


def test_a_server_whose_time_jumps_is_asked_twice_and_no_more(fake, lane, monkeypatch):
    """One look is at most two searches, however the dates of the answers disagree. Looks fall out on a slow machine."""
    asked, looks, look = [], [], Reconciler._look

    async def counted(self, row, *, last):
        looks.append(row)
        return await look(self, row, last=last)

    async def history(self, first, last, page=1):
        asked.append(first)
        return (), len(asked) * 3 * DAY_S

    monkeypatch.setattr(Client, "history", history)
    monkeypatch.setattr(Reconciler, "_look", counted)
    with pytest.raises(OutcomeUnknown):
        run(lane, request())
    assert len(asked) == 2 * len(looks) > 0


def test_a_job_recovered_by_its_name_is_found_by_its_inputs(fake, lane, tmp_path):
    lose(fake, lane)
    named = fake.jobs[0].request_id
    picture = asyncio.run(lane.recover(named, Terms()))
    (again,) = run(lane, request())
    assert again.receipt["request_id"] == named and again.receipt["sha256"] == picture.receipt["sha256"]
    assert fake.submits == len(fake.ledger) == len(list_jobs(tmp_path)) == 1


def test_a_recovery_under_way_goes_on_when_its_job_is_found_by_the_inputs(fake, lane):
    fake.behaviour = Behaviour(run_seconds=2.0)
    lose(fake, lane)
    named = fake.jobs[0].request_id

    async def both():
        recovery = asyncio.ensure_future(lane.recover(named, Terms()))
        await asyncio.sleep(0.1)
        return await asyncio.gather(recovery, lane.run([request()], [], Terms()))

    recovered, (found,) = asyncio.run(both())
    assert recovered.receipt["request_id"] == found.receipt["request_id"] == named
    assert fake.submits == len(fake.ledger) == 1
