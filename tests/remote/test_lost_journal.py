"""The journal is lost or damaged at any moment: the same Run again pays nothing and delivers the same bytes."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lanes import a_lane, request, run, settled, small_fake
from remote.damages import DAMAGES, PAGE, beside, blank, cut, delete, journal_of, overwrite

from fake_segmind import Behaviour, Fault
from klein9b.remote import errors
from klein9b.remote.errors import NOTHING_SENT
from klein9b.remote.journal_restore import ASIDE, FILES_FOLDER
from klein9b.remote.service import Terms, list_jobs

PHOTO = np.full((8, 8, 3), 0.5, np.float32)


def kept(fake, folder):
    with a_lane(fake, folder) as lane:
        run(lane, request(), arrays=[PHOTO])


def leave_at(state, fake, folder):
    """A run that the person leaves as soon as the journal says that its job has come so far."""

    def reached():
        return [row.state for row in list_jobs(folder)] == [state]

    with a_lane(fake, folder) as lane, pytest.raises(errors.Interrupted):
        asyncio.run(lane.run([request()], [PHOTO], Terms(), cancelled=reached))


def being_fetched(fake, folder):
    fake.script("output", Fault.html(502), forever=True)
    leave_at("COMPLETED", fake, folder)
    fake.plan.clear()


def in_flight(fake, folder):
    fake.behave(Behaviour(run_seconds=1.0))
    leave_at("ACCEPTED", fake, folder)


def without_an_answer(fake, folder):
    """Accepted, and neither we nor the history know: it may take hours to show there."""
    fake.settings.history_lag_seconds = 7200.0
    fake.script("submit", Fault.reset_after_request())
    with a_lane(fake, folder) as lane, pytest.raises(errors.OutcomeUnknown):
        run(lane, request(), arrays=[PHOTO])
    fake.plan.clear()


MOMENTS = [kept, being_fetched, in_flight, without_an_answer]


def assert_paid_once(fake, picture):
    (job,) = fake.jobs
    assert fake.submits == len(fake.ledger) == 1
    assert picture.receipt["sha256"] == hashlib.sha256(fake.service.render(job)).hexdigest()
    assert picture.receipt["request_id"] == job.request_id


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_the_same_run_again_pays_nothing(fake, tmp_path, damage, moment):
    moment(fake, tmp_path)
    damage(tmp_path)
    fake.settings.history_lag_seconds = 0.0
    with a_lane(fake, tmp_path) as lane:
        (picture,) = run(lane, request(), arrays=[PHOTO])
    assert_paid_once(fake, picture)
    assert "journal" in picture.receipt["note"]


@pytest.mark.parametrize("damage", [delete, blank, cut], ids=lambda one: one.__name__)
def test_a_job_that_nobody_has_told_of_is_not_sent_again_while_it_stays_so(fake, tmp_path, damage):
    """The file that was made before the first byte left is all there is."""
    without_an_answer(fake, tmp_path)
    damage(tmp_path)
    with a_lane(fake, tmp_path) as lane:
        for _ in range(2):
            with pytest.raises(errors.OutcomeUnknown):
                run(lane, request(), arrays=[PHOTO])
        fake.settings.history_lag_seconds = 0.0
        assert_paid_once(fake, run(lane, request(), arrays=[PHOTO])[0])


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_while_the_lane_is_open_the_next_run_notices(fake, tmp_path, damage, moment):
    moment(fake, tmp_path)
    with a_lane(fake, tmp_path) as lane:
        asyncio.run(lane.balance())
        damage(tmp_path)
        fake.settings.history_lag_seconds = 0.0
        (picture,) = run(lane, request(), arrays=[PHOTO])
    assert_paid_once(fake, picture)


@pytest.fixture(scope="module")
def paid():
    """A fake, and the folder of a kept picture and of one still to be fetched: as it was left, and as it is
    when the program is killed, with everything in the write-ahead log."""
    with small_fake() as fake, tempfile.TemporaryDirectory() as name:
        folder, killed = Path(name) / "left", Path(name) / "killed"
        with a_lane(fake, folder) as lane:
            run(lane, request("kept"), arrays=[PHOTO])
            fake.script("output", Fault.html(502), forever=True)
            with pytest.raises(errors.StillRunning):
                run(lane, request("fetched"), timeout_s=30)
            shutil.copytree(folder, killed)
        fake.plan.clear()
        yield fake, folder, killed


@contextlib.contextmanager
def unless_it_looks_newer():
    """Four bytes of the file are its version: no program can tell damage there from an update that went back."""
    try:
        yield
    except errors.SegmindError as error:
        assert "newer version" in error.what and error.money == NOTHING_SENT


def again(fake, folder, damage):
    """Both Runs again on a damaged copy of the folder, twice."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "d"
        shutil.copytree(folder, copy)
        damage(copy)
        for _ in range(2):
            with a_lane(fake, copy) as lane, unless_it_looks_newer():
                pictures = run(lane, request("kept"), arrays=[PHOTO]) + run(lane, request("fetched"))
                renders = [hashlib.sha256(fake.service.render(job)).hexdigest() for job in fake.jobs]
                assert [picture.receipt["sha256"] for picture in pictures] == renders
    assert fake.submits == len(fake.ledger) == 2


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_cut_at_any_byte(paid, data):
    fake, left, _ = paid
    size = journal_of(left).stat().st_size
    again(fake, left, lambda folder: cut(folder, data.draw(st.integers(0, size))))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_log_of_a_killed_process_cut_at_any_byte(paid, data):
    """What is after the cut has not happened, says sqlite, and all is in order."""
    fake, _, killed = paid
    log = beside(killed)[0]
    kept_bytes = data.draw(st.integers(0, log.stat().st_size))
    again(fake, killed, lambda folder: os.truncate(folder / log.name, kept_bytes))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_overwritten_anywhere(paid, data):
    fake, left, _ = paid
    size = journal_of(left).stat().st_size
    length = data.draw(st.sampled_from([1, 4, 64, PAGE]))
    at = data.draw(st.integers(0, size - length))
    junk = data.draw(st.binary(min_size=length, max_size=length))
    again(fake, left, lambda folder: overwrite(folder, at, junk))


def test_an_older_journal_out_of_a_backup_sends_nothing_again(fake, tmp_path):
    """It knows the job as planned, or not at all: the job's file knows better."""
    behind = tmp_path / "backup"
    with a_lane(fake, tmp_path / "d") as lane:
        run(lane, request("first"))
    shutil.copy(journal_of(tmp_path / "d"), behind)
    with a_lane(fake, tmp_path / "d") as lane:
        paid = run(lane, request())[0]
    shutil.copy(behind, journal_of(tmp_path / "d"))
    with a_lane(fake, tmp_path / "d") as lane:
        assert run(lane, request())[0].receipt["sha256"] == paid.receipt["sha256"]
        assert run(lane, request("first"))
    assert fake.submits == len(fake.ledger) == 2


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda one: one.__name__)
def test_a_journal_that_goes_back_in_time_under_an_open_lane_sends_nothing_again(fake, tmp_path, moment):
    """No opening looks into the files here: the file itself refuses to be begun twice."""
    moment(fake, tmp_path)
    fake.settings.history_lag_seconds = 0.0
    with a_lane(fake, tmp_path) as lane:
        asyncio.run(lane.balance())
        with contextlib.closing(lane_journal(lane)) as db, db:
            db.execute("DELETE FROM jobs")
        assert_paid_once(fake, run(lane, request(), arrays=[PHOTO])[0])


def test_two_that_have_a_journal_each_send_once(fake, tmp_path):
    """The journal is deleted under one of them while it uploads; the other finds none, and begins a new one."""
    fake.script("upload", Fault.stall_headers(0.4))

    async def both(one, other):
        first = asyncio.ensure_future(one.run([request()], [PHOTO], Terms()))
        while not fake.requests_to("upload"):
            await asyncio.sleep(0.01)
        delete(tmp_path)
        return await asyncio.gather(first, other.run([request()], [PHOTO], Terms()))

    with a_lane(fake, tmp_path) as one, a_lane(fake, tmp_path) as other:
        (first,), (second,) = asyncio.run(both(one, other))
    assert first.receipt["request_id"] == second.receipt["request_id"]
    assert_paid_once(fake, first)


def lane_journal(lane):
    return sqlite3.connect(lane._opened[2]._path)


def test_a_first_use_asks_no_history(fake, tmp_path):
    with a_lane(fake, tmp_path) as lane:
        run(lane, request())
    assert not fake.requests_to("history")


def test_a_killed_first_start_is_a_first_use(fake, tmp_path):
    tmp_path.joinpath("jobs.sqlite").touch()
    with a_lane(fake, tmp_path) as lane:
        assert "note" in run(lane, request())[0].receipt
    assert not fake.requests_to("history")


def test_a_damaged_journal_alone_has_the_history_read(fake, tmp_path):
    """An older version made it and left no files, and its only job was in flight."""
    in_flight(fake, tmp_path)
    shutil.rmtree(tmp_path / FILES_FOLDER)
    cut(tmp_path)
    with a_lane(fake, tmp_path) as lane, pytest.raises(errors.SegmindError, match="may be this one"):
        run(lane, request(), arrays=[PHOTO])
    assert fake.submits == 1


def test_a_damaged_journal_is_kept_as_it_was(fake, tmp_path):
    kept(fake, tmp_path)
    cut(tmp_path)
    damaged = journal_of(tmp_path).read_bytes()
    list_jobs(tmp_path)
    (aside,) = [path for path in tmp_path.glob(f"*{ASIDE}*") if path.name[-4:] not in ("-wal", "-shm")]
    assert aside.read_bytes() == damaged


def test_the_history_is_read_once(fake, tmp_path):
    kept(fake, tmp_path)
    delete(tmp_path)
    with a_lane(fake, tmp_path) as lane:
        for n in range(3):
            run(lane, request(seed=n))
        first = len(fake.requests_to("history"))
        run(lane, request(seed=10), request(seed=11), request(seed=12))
    assert 1 <= first == len(fake.requests_to("history")) <= 2


@pytest.mark.parametrize("fault", [Fault.html(502), Fault.error("no", 401), Fault.truncated_json()])
def test_a_history_that_cannot_be_read_stops_what_is_new_and_nothing_else(fake, tmp_path, fault):
    kept(fake, tmp_path)
    delete(tmp_path)
    fake.script("history", fault, forever=True)
    with a_lane(fake, tmp_path) as lane:
        assert_paid_once(fake, run(lane, request(), arrays=[PHOTO])[0])
        with pytest.raises(errors.Unreachable, match="history") as said:
            run(lane, request("new"))
        assert said.value.money == NOTHING_SENT and "always_new" in said.value.todo
        assert fake.submits == 1
        assert run(lane, request("new"), reuse="always_new"), "who asks for another picture gets it"
        fake.plan.clear()
        assert run(lane, request("another"))
    assert fake.submits == 3
    settled(tmp_path, ["KEPT"] * 3)
