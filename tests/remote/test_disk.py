"""Trouble with the disk or sqlite in the middle of a run: three sentences whose money is right, and one payment."""

import asyncio
import errno
import os
import sqlite3
import time

import pytest
from lanes import a_lane, request, run, settled
from remote.damages import DAMAGES, journal_of

from fake_segmind import Behaviour
from klein9b.remote import explain
from klein9b.remote.client import Client
from klein9b.remote.errors import NOTHING_SENT, SegmindError
from klein9b.remote.job_files import JobFiles
from klein9b.remote.journal import Journal
from klein9b.remote.protocol import Unknown
from klein9b.remote.service import Terms, list_jobs
from klein9b.remote.vault import Vault

FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")
LOCKED = sqlite3.OperationalError("database is locked")
IO = sqlite3.OperationalError("disk I/O error")
NO_ROOM = sqlite3.OperationalError("database or disk is full")
MALFORMED = sqlite3.DatabaseError("database disk image is malformed")
TROUBLES = [LOCKED, IO, NO_ROOM, MALFORMED]

# What fails, with what, and what is true of the money then.
PLACES = [
    *((Journal, name, error, NOTHING_SENT) for name in ("claim", "take", "submitting") for error in TROUBLES),
    *((JobFiles, "begin", error, NOTHING_SENT) for error in (FULL, READ_ONLY)),
    *((Journal, name, error, explain.SENT) for name in ("accepted", "unknown") for error in TROUBLES),
    *((Journal, name, error, explain.WAITS_THERE) for name in ("completed", "kept") for error in TROUBLES),
    *((Vault, "put", error, explain.WAITS_THERE) for error in (FULL, READ_ONLY)),
    *((JobFiles, "update", error, explain.WAITS_THERE) for error in (FULL, READ_ONLY)),
]


def name_of(place):
    return place.__name__ if isinstance(place, type) else None


def breaking(patch, owner, name, error):
    def failing(*args, **kwargs):
        raise error

    patch.setattr(owner, name, failing)
    if name == "unknown":  # where the answer is lost

        async def lost(self, body):
            await submit(self, body)
            return Unknown("reset")

        submit = Client.submit
        patch.setattr(Client, "submit", lost)


@pytest.mark.parametrize(("owner", "name", "error", "money"), PLACES, ids=name_of)
def test_the_person_reads_what_is_true_and_the_same_run_again_pays_once(
    fake, tmp_path, monkeypatch, owner, name, error, money
):
    with a_lane(fake, tmp_path) as lane:
        with monkeypatch.context() as patch, pytest.raises(SegmindError) as said:
            breaking(patch, owner, name, error)
            run(lane, request())
        assert said.value.what.startswith(("The disk", "The job journal", "The folder", "Another program"))
        assert str(error) in said.value.what and said.value.what != f"{error}."
        assert said.value.money == f"{money}." or said.value.money == money
        assert said.value.todo.rstrip(".").endswith("run again" if money == NOTHING_SENT else "costs nothing")
        assert fake.submits == (0 if money == NOTHING_SENT else 1)
        assert run(lane, request())[0].decoded.width == 32
    assert fake.submits == len(fake.ledger) == 1
    assert fake.key not in str(said.value)


@pytest.mark.parametrize("error", TROUBLES)
@pytest.mark.parametrize("name", ["adopt", "row", "settle"])
def test_a_recovery_is_told_in_the_same_way(fake, tmp_path, monkeypatch, name, error):
    with a_lane(fake, tmp_path / "here") as here:
        paid = run(here, request())[0].receipt["request_id"]
    with a_lane(fake, tmp_path / "there") as there:
        with monkeypatch.context() as patch, pytest.raises(SegmindError, match="journal|disk") as said:
            breaking(patch, Journal, name, error)
            asyncio.run(there.recover(paid, Terms()))
        assert paid in str(said.value)
        assert asyncio.run(there.recover(paid, Terms())).receipt["request_id"] == paid
    assert fake.submits == 1


def test_a_picture_that_cannot_be_read_back_is_paid_and_says_so(fake, tmp_path, monkeypatch):
    with a_lane(fake, tmp_path) as lane:
        run(lane, request())
        reads = []

        def failing(self, sha256):
            reads.append(sha256)
            if len(reads) > 1:
                raise OSError(errno.EIO, "Input/output error")
            return b"there"

        with monkeypatch.context() as patch, pytest.raises(SegmindError, match="Input/output error") as said:
            patch.setattr(Vault, "get", failing)
            run(lane, request())
        assert said.value.money == "The job is paid."


def test_an_interrupt_on_a_broken_disk_still_frees_the_person(fake, tmp_path, monkeypatch):
    fake.behaviour = Behaviour(run_seconds=0.5)
    real = Journal.row

    def failing(self, id):
        if fake.jobs:
            raise IO
        return real(self, id)

    with a_lane(fake, tmp_path) as lane:
        with monkeypatch.context() as patch, pytest.raises(SegmindError):
            patch.setattr(Journal, "row", failing)
            asyncio.run(lane.run([request()], [], Terms(), cancelled=lambda: bool(fake.jobs)))
        assert run(lane, request())
    assert fake.submits == 1


def test_a_beat_that_fails_is_not_the_last(fake, tmp_path, monkeypatch):
    fake.behaviour = Behaviour(run_seconds=0.6)
    beats, real = [], Journal.beat

    def failing(self):
        beats.append(self)
        if len(beats) == 1:
            raise IO
        real(self)

    monkeypatch.setattr(Journal, "beat", failing)
    with a_lane(fake, tmp_path) as lane:
        assert run(lane, request())
    assert len(beats) > 1


def test_a_commit_that_fails_leaves_the_journal_usable(tmp_path):
    """A transaction that stays open would refuse every later one."""

    class Full:
        def __init__(self, db):
            self._db = db

        def __getattr__(self, name):
            return getattr(self._db, name)

        def execute(self, statement, *values):
            if statement == "COMMIT":
                raise NO_ROOM
            return self._db.execute(statement, *values)

    journal = Journal(tmp_path / "j")
    real = journal._db
    journal._db = Full(real)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        journal.claim("f", prompt="p", seed=1)
    journal._db = real
    assert journal.rows() == [] and journal.claim("f", prompt="p", seed=1).attempt == 1
    journal.close()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_damage_in_the_middle_of_a_job_pays_once(fake, tmp_path, damage):
    """Whatever the first Run comes to, the next ones pay nothing and bring the picture."""
    fake.behaviour = Behaviour(run_seconds=0.4)
    with a_lane(fake, tmp_path) as lane:

        def damaged_once():
            if fake.jobs and not done:
                done.append(damage(tmp_path))
            return False

        done = []
        try:
            asyncio.run(lane.run([request()], [], Terms(), cancelled=damaged_once))
        except SegmindError as error:
            assert error.money != NOTHING_SENT, error
        assert run(lane, request())[0].decoded.width == 32
    assert done and fake.submits == len(fake.ledger) == 1
    with a_lane(fake, tmp_path) as lane:
        assert run(lane, request())[0].receipt["reused"]
    assert fake.submits == len(fake.ledger) == 1


def test_a_folder_that_is_a_file_is_three_sentences(tmp_path):
    (tmp_path / "d").write_text("no folder")
    with pytest.raises(SegmindError) as said:
        list_jobs(tmp_path / "d")
    assert said.value.money == NOTHING_SENT


def test_a_read_only_folder_is_told_at_once(fake, tmp_path):
    """Not after the thirty seconds that another program is waited for."""
    with a_lane(fake, tmp_path) as lane:
        run(lane, request())
    began = time.monotonic()
    journal_of(tmp_path).chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(SegmindError) as said:
            list_jobs(tmp_path)
    finally:
        tmp_path.chmod(0o700)
        journal_of(tmp_path).chmod(0o600)
    assert said.value.money == NOTHING_SENT and time.monotonic() - began < 5
    settled(tmp_path, ["KEPT"])
