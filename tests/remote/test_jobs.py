"""The money rules (a) to (g), each on its own."""

import asyncio
import contextlib
import logging
import socket
import sqlite3
from types import SimpleNamespace

import numpy as np
import pytest
from lanes import a_lane, batch, hosts_of, request, run, settled

from fake_segmind import Behaviour, Fault
from klein9b.remote import errors
from klein9b.remote import rows as rows_module
from klein9b.remote.client import Client
from klein9b.remote.errors import NOTHING_SENT
from klein9b.remote.jobs import WRITE_AGAIN_S
from klein9b.remote.journal import Journal
from klein9b.remote.rows import SCHEMA
from klein9b.remote.service import Terms, list_jobs
from klein9b.remote.values import Order

PHOTO = np.full((8, 8, 3), 0.5, np.float32)


def seeds(pictures):
    return [picture.receipt["seed"] for picture in pictures]


def test_the_row_is_on_disk_when_the_server_hears_of_it_and_the_id_before_the_first_poll(
    fake, lane, tmp_path, monkeypatch
):
    """Looks into the journal from the server's thread, as another process would."""
    seen = []

    def spied(name, original):
        def spy(*args):
            rows = list_jobs(tmp_path)
            seen.append((name, rows[0].state, len(rows[0].body_digest), bool(rows[0].request_id)))
            return original(*args)

        return spy

    monkeypatch.setattr(fake.service, "accept", spied("submit", fake.service.accept))
    monkeypatch.setattr(fake.service.book, "record", spied("poll", fake.service.book.record))
    run(lane, request())
    assert seen[0] == ("submit", "SUBMITTING", 64, False)
    assert {("poll", "ACCEPTED", 64, True)} == set(seen[1:])


def test_identical_requests_in_one_run_and_in_two_runs_at_once_share_a_job(fake, lane):
    fake.behaviour = Behaviour(run_seconds=0.2)

    async def twice():
        return await asyncio.gather(*(lane.run([request(), request()], [PHOTO], Terms()) for _ in range(2)))

    pictures = [picture for pictures in asyncio.run(twice()) for picture in pictures]
    assert len({picture.receipt["request_id"] for picture in pictures}) == 1 and len(pictures) == 4
    assert fake.submits == len(fake.ledger) == len(fake.requests_to("upload")) == 1


def test_a_batch_keeps_its_order_and_its_successes(fake, lane):
    fake.behave(*[Behaviour(run_seconds=0.3 - 0.05 * n) for n in range(3)], Behaviour.moderated())
    pictures = run(lane, *batch(6), on_item_error="skip")
    assert seeds(pictures) == sorted(seeds(pictures)) and len(pictures) == 5
    assert len(fake.ledger) == 5
    assert seeds(run(lane, *batch(6))) == list(range(6))
    assert len(fake.ledger) == 6 and fake.submits == 7


def test_a_failure_in_a_batch_is_raised_after_the_rest_is_safe(fake, lane):
    fake.behave(Behaviour.moderated())
    with pytest.raises(errors.JobFailed) as failure:
        run(lane, *batch(4))
    assert "3 of 4" in failure.value.todo and "moderation" in failure.value.what
    assert "not billed" in failure.value.money and len(fake.ledger) == 3


def test_the_cap_stops_what_would_pass_it(fake, lane):
    with pytest.raises(errors.SpendCapReached) as refusal:
        run(lane, *batch(4), max_cost_usd=0.09)
    assert len(fake.ledger) == fake.submits == 2 and "0.09" in refusal.value.what
    assert len(run(lane, *batch(4), max_cost_usd=0.09)) == 4, "a re-run pays only for what is missing"
    assert len(fake.ledger) == 4


def test_a_cap_binds_the_run_that_set_it_and_no_other(fake, lane):
    async def both():
        poor = lane.run([request()], [], Terms(max_cost_usd=0.01))
        rich = lane.run([request()], [], Terms())
        return await asyncio.gather(poor, rich, return_exceptions=True)

    refused, picture = asyncio.run(both())
    assert isinstance(refused, errors.SpendCapReached) and picture[0].receipt["cost_usd"]
    assert len(fake.ledger) == 1


def test_a_failed_job_gives_its_reservation_back(fake, lane):
    fake.behaviour = Behaviour.moderated()
    with pytest.raises(errors.JobFailed):
        run(lane, request(), max_cost_usd=0.05)
    fake.behaviour = Behaviour()
    assert run(lane, request(), max_cost_usd=0.05)


def test_a_deadline_stops_the_waiting_and_a_later_run_picks_the_job_up(fake, lane):
    fake.behaviour = Behaviour(run_seconds=0.4)
    with pytest.raises(errors.StillRunning) as late:
        run(lane, request(), timeout_s=20)
    assert late.value.request_id == fake.jobs[0].request_id
    assert run(lane, request())
    assert fake.submits == 1


@pytest.mark.parametrize("hours", [1.1, 24, 24 * 6.9])
def test_an_expired_record_is_recovered_from_the_account(fake, tmp_path, clock, hours):
    fake.behaviour = Behaviour(run_seconds=0.3)
    with a_lane(fake, tmp_path, clock=clock) as lane, pytest.raises(errors.StillRunning):
        run(lane, request(), timeout_s=20)
    fake.clock.advance(3600 * hours)
    clock.slept += 3600 * hours
    with a_lane(fake, tmp_path, clock=clock) as lane:
        assert run(lane, request())[0].receipt["cost_usd"]
    assert fake.submits == 1


def test_what_is_gone_for_good_is_not_paid_again_without_being_asked(fake, tmp_path, clock):
    with a_lane(fake, tmp_path, clock=clock) as lane:
        run(lane, request())
        for file in (tmp_path / "results").iterdir():
            file.unlink()
        assert run(lane, request()), "the vault lost it, Segmind has it"
        for file in (tmp_path / "results").iterdir():
            file.unlink()
        fake.clock.advance(8 * 86400)
        clock.slept += 8 * 86400
        for _ in range(2):
            with pytest.raises(errors.ResultLost, match="always_new"):
                run(lane, request())
        assert fake.submits == 1
        assert run(lane, request(), reuse="always_new")
    assert fake.submits == 2


def test_always_new_pays_again_and_says_what_for(fake, lane):
    first, second = (run(lane, request(), reuse="always_new")[0].receipt for _ in range(2))
    assert first["request_id"] != second["request_id"] and not second["reused"]
    assert len(fake.ledger) == 2


def test_a_lost_submit_is_adopted_once_when_two_are_lost(fake, lane):
    """Same body twice on purpose, both answers lost: each attempt finds one of the two jobs."""
    fake.script("submit", Fault.reset_after_request(), Fault.reset_after_request())
    got = [run(lane, request(), reuse="always_new")[0].receipt["request_id"] for _ in range(2)]
    assert sorted(got) == sorted(job.request_id for job in fake.jobs)


@pytest.mark.parametrize("form", ["python", "json", "object"])
def test_a_lost_submit_is_found_among_others(fake, lane, form):
    fake.settings.history_body = form
    fake.settings.history_extra = {"webhook": None, "safety": True}
    run(lane, request(seed=8), request(prompt="another"))
    fake.script("submit", Fault.reset_after_request())
    assert run(lane, request())[0].receipt["seed"] == 7
    assert fake.submits == 3


def test_a_lost_submit_that_shows_late_is_found_by_the_next_run(fake, lane):
    fake.settings.history_lag_seconds = 5.0
    fake.script("submit", Fault.reset_after_request())
    for _ in range(2):
        with pytest.raises(errors.OutcomeUnknown, match="not sent again"):
            run(lane, request())
    fake.settings.history_lag_seconds = 0.0
    assert run(lane, request())[0].receipt["reused"]
    assert fake.submits == 1


@contextlib.contextmanager
def nobody():
    """A service whose port is taken, so that no other process gets it, and where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        yield SimpleNamespace(key="nobodyskey1", api_url=url, storage_url=url, account_url=url)


def test_nobody_listening_is_retried_a_few_times_and_costs_nothing(tmp_path):
    with nobody() as service, a_lane(service, tmp_path) as lane, pytest.raises(errors.Unreachable) as said:
        run(lane, request())
    assert said.value.money == NOTHING_SENT
    assert list_jobs(tmp_path) == []


def test_a_queue_of_429_ends_at_the_deadline_with_nothing_sent(fake, lane, tmp_path):
    fake.script("submit", Fault.rate_limited(600.0), forever=True)
    with pytest.raises(errors.Unreachable) as said:
        run(lane, request(), timeout_s=100)
    assert said.value.money == NOTHING_SENT and not fake.jobs
    settled(tmp_path, [])


def test_in_flight_jobs_are_capped(fake, tmp_path):
    fake.behaviour = Behaviour(run_seconds=0.2)
    most = []
    with a_lane(fake, tmp_path, in_flight=3) as lane:

        def look():
            now = fake.clock.now()
            most.append(sum(job.state(now) != "COMPLETED" for job in fake.jobs))
            return False

        asyncio.run(lane.run(batch(9), [], Terms(), cancelled=look))
    assert max(most) == 3 and len(fake.ledger) == 9


def test_recover_by_request_id_on_another_machine(fake, tmp_path):
    with a_lane(fake, tmp_path / "here") as here:
        paid = run(here, request())[0]
    with a_lane(fake, tmp_path / "there") as there:
        for _ in range(2):
            found = asyncio.run(there.recover(paid.receipt["request_id"], Terms()))
            assert found.receipt["sha256"] == paid.receipt["sha256"]
    assert fake.submits == 1


def test_recover_of_an_unknown_id_ends(fake, lane):
    with pytest.raises(errors.SegmindError) as said:
        asyncio.run(lane.recover("no-such-request", Terms(timeout_s=200)))
    assert "no-such-request" in str(said.value) and fake.submits == 0


def test_balance(fake, lane):
    before = asyncio.run(lane.balance())
    run(lane, request())
    after = asyncio.run(lane.balance())
    assert before.paid_usd + before.free_usd - after.paid_usd - after.free_usd == pytest.approx(0.0402)


def test_progress_tells_the_states_in_order(fake, lane):
    fake.behaviour = Behaviour(queue_seconds=0.3, run_seconds=0.3)
    told = []
    asyncio.run(lane.run([request()], [PHOTO], Terms(), on_progress=lambda items: told.append(items[0])))
    states = list(dict.fromkeys(item.state for item in told if item))
    assert [state for state in states if state in ("QUEUED", "PROCESSING")] == ["QUEUED", "PROCESSING"]
    waits = [item.waited_s for item in told if item]
    assert waits == sorted(waits) and told[-1].request_id == fake.jobs[0].request_id


def test_a_progress_callback_that_raises_detaches_and_nothing_is_lost(fake, lane, tmp_path):
    """The host's progress hook may raise its own interrupt, which is a BaseException."""

    class HostInterrupt(BaseException):
        pass

    def hook(items):
        if fake.jobs:
            raise HostInterrupt

    fake.behaviour = Behaviour(run_seconds=0.2)
    with pytest.raises(HostInterrupt):
        asyncio.run(lane.run([request()], [], Terms(), on_progress=hook))
    settled(tmp_path, ["KEPT"])


def test_an_image_that_cannot_be_sent_stops_before_anything_is(fake, lane):
    with pytest.raises(errors.BadInput):
        run(lane, request(), arrays=[np.full((8, 8, 3), np.nan, np.float32)])
    assert not fake.requests


def test_the_key_is_nowhere(fake, lane, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    fake.script("status", Fault.error(f"your key {fake.key} is bad", 401), Fault.error(f"{fake.key}", 401))
    with pytest.raises(errors.StillRunning) as said:
        run(lane, request(), arrays=[PHOTO])
    receipt = run(lane, request(), arrays=[PHOTO])[0].receipt
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(fake.key.encode() not in path.read_bytes() for path in files)
    error, rows = said.value, list_jobs(tmp_path)
    for text in (caplog.text, str(error), repr(error), str(receipt), repr(rows), repr(lane)):
        assert fake.key not in text
    cause = said.value.__cause__ or said.value.__context__
    assert cause is None or fake.key not in repr(cause)


def plan_elsewhere(fake, directory, prompt):
    """Another process's journal, with a row that it has planned and not sent."""
    journal = Journal(directory / "jobs.sqlite")
    order = Order(request(prompt))
    return journal, journal.claim(order.fingerprint(hosts_of(fake).api), prompt=prompt, seed=7)


@pytest.mark.parametrize("schema", [SCHEMA, SCHEMA.replace(" AUTOINCREMENT", "")], ids=["ids are new", "ids come back"])
def test_who_waits_for_a_row_that_is_discarded_gets_no_other_picture(fake, tmp_path, monkeypatch, schema):
    """The other process forgets the cat it planned and sends a dog, while we hold the cat's row by its id."""
    monkeypatch.setattr(rows_module, "SCHEMA", schema)
    fake.behave(Behaviour(run_seconds=0.6))

    async def both(ours, theirs):
        busy = asyncio.ensure_future(ours.run([request("busy")], [], Terms()))
        while not fake.jobs:
            await asyncio.sleep(0.01)
        journal, row = plan_elsewhere(fake, tmp_path, "a cat")
        cat = asyncio.ensure_future(ours.run([request("a cat")], [], Terms()))
        await asyncio.sleep(0.1)
        assert journal.discard(row.id)
        journal.close()
        await theirs.run([request("a dog")], [], Terms())
        await busy
        return (await cat)[0].receipt["request_id"]

    with a_lane(fake, tmp_path, in_flight=1) as ours, a_lane(fake, tmp_path) as theirs:
        got = asyncio.run(both(ours, theirs))
    assert [job.body["prompt"] for job in fake.jobs if job.request_id == got] == ["a cat"]


def test_a_new_request_does_not_join_the_drive_of_a_discarded_row(fake, tmp_path):
    fake.behave(Behaviour(run_seconds=0.6))

    async def both(lane):
        busy = asyncio.ensure_future(lane.run([request("busy")], [], Terms()))
        while not fake.jobs:
            await asyncio.sleep(0.01)
        journal, row = plan_elsewhere(fake, tmp_path, "a cat")
        cat = asyncio.ensure_future(lane.run([request("a cat")], [], Terms()))
        await asyncio.sleep(0.1)
        assert journal.discard(row.id)
        journal.close()
        dog = await lane.run([request("a dog")], [], Terms())
        await asyncio.gather(busy, cat)
        return dog[0].receipt["request_id"]

    with a_lane(fake, tmp_path, in_flight=1) as lane:
        got = asyncio.run(both(lane))
    assert [job.body["prompt"] for job in fake.jobs if job.request_id == got] == ["a dog"]
    assert max(fake.charges_by_body.values()) == 1


def test_a_cap_binds_whoever_waits_on_when_the_run_without_one_left(fake, tmp_path):
    fake.behave(Behaviour(run_seconds=1.0))

    async def both(lane):
        busy = asyncio.ensure_future(lane.run([request(seed=1)], [], Terms()))
        while not fake.jobs:
            await asyncio.sleep(0.01)
        rich = asyncio.ensure_future(lane.run([request(seed=2)], [], Terms(timeout_s=20)))
        await asyncio.sleep(0.05)
        poor = asyncio.ensure_future(lane.run([request(seed=2)], [], Terms(max_cost_usd=0.01)))
        return await asyncio.gather(busy, rich, poor, return_exceptions=True)

    with a_lane(fake, tmp_path, in_flight=1) as lane:
        _, rich, poor = asyncio.run(both(lane))
    assert isinstance(rich, errors.Unreachable) and isinstance(poor, errors.SpendCapReached)
    assert len(fake.ledger) == 1


def failing(times):
    """`Journal.accepted` on a disk that is full at first."""
    real, left = Journal.accepted, [sqlite3.OperationalError("database or disk is full")] * times

    def accepted(self, id, request_id):
        if left:
            raise left.pop()
        return real(self, id, request_id)

    return accepted


def test_a_request_id_is_written_as_soon_as_the_disk_lets_us(fake, lane, monkeypatch):
    fake.settings.history_lag_seconds = 7200.0
    monkeypatch.setattr(Journal, "accepted", failing(len(WRITE_AGAIN_S)))
    assert run(lane, request())
    assert fake.submits == 1


def test_a_request_id_that_cannot_be_written_is_told(fake, lane, monkeypatch):
    """Nothing can be written any more, not even that we let go of the row."""

    def full(self, id):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Journal, "accepted", failing(len(WRITE_AGAIN_S) + 1))
    monkeypatch.setattr(Journal, "discard", full)
    with pytest.raises(errors.SegmindError, match="disk is full") as said:
        run(lane, request())
    assert said.value.request_id == fake.jobs[0].request_id
    monkeypatch.undo()
    assert run(lane, request()) and fake.submits == 1


def test_what_nobody_thought_of_takes_no_other_picture_down(fake, lane, monkeypatch):
    real, odd = Client.status, []

    async def status(self, request_id):
        odd[:] = odd or [request_id]
        if request_id in odd:
            raise KeyError("odd")
        return await real(self, request_id)

    monkeypatch.setattr(Client, "status", status)
    with pytest.raises(errors.SegmindError, match="does not know .KeyError: 'odd'") as said:
        run(lane, *batch(3))
    assert "2 of 3" in said.value.todo and "not sent again" in said.value.money
    monkeypatch.undo()
    assert len(run(lane, *batch(3))) == fake.submits == 3
