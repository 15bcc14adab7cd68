"""Opening a journal that is lost: one process does it, a killed one leaves it to the next, and the person is told."""

import contextlib
import errno
import hashlib
import logging
import multiprocessing
import os
import random
import sqlite3
import time
from pathlib import Path

import pytest
from remote.damages import DAMAGES, a_folder, cut, delete, journal_of, text

from klein9b.remote import durable, journal_restore
from klein9b.remote.errors import NOTHING_SENT, SegmindError
from klein9b.remote.job_files import JobFiles
from klein9b.remote.journal import Journal
from klein9b.remote.journal_check import damaged_because
from klein9b.remote.journal_intake import JournalIntake
from klein9b.remote.journal_restore import ASIDE, FILES_FOLDER, VAULT_FOLDER, open_journal
from klein9b.remote.rows import SCHEMA_VERSION
from klein9b.remote.service import list_jobs
from klein9b.remote.vault import Vault

fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks a process")
JOBS = 5


def fill(folder, jobs=JOBS):
    """A folder as jobs leave it: the last one in flight, the others kept."""
    files, vault = JobFiles(folder / FILES_FOLDER), Vault(folder / VAULT_FOLDER)
    with contextlib.closing(Journal(journal_of(folder))) as journal:
        for n in range(jobs):
            row = journal.claim(f"{n:064x}", prompt=f"prompt {n}", seed=n)
            journal.submitting(row.id, f"digest {n}")
            assert files.begin(journal.row(row.id))
            journal.accepted(row.id, f"request-{n}")
            if n < jobs - 1:
                journal.settle(row.id, 0.04, None, 1.0, 13.0)
                journal.kept(row.id, vault.put(b"picture %d" % n, "image/png").sha256)
            files.update(journal.row(row.id))
        return comparable(journal.rows())


@pytest.fixture
def before(tmp_path):
    return fill(tmp_path)


def comparable(rows):
    """What must come back of each."""
    plain = [(row.fingerprint, row.attempt, row.state, row.prompt_start, row.seed, row.body_digest) for row in rows]
    return sorted(zip(plain, [(row.request_id, row.sha256, row.cost_usd) for row in rows]))


def asides(folder):
    found = [path.name for path in folder.glob(f"*{ASIDE}*")]
    return sorted({name.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal") for name in found})


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_every_job_comes_back_and_the_person_is_told_once(tmp_path, before, damage, caplog):
    damage(tmp_path)
    told = []
    with caplog.at_level(logging.WARNING):
        assert comparable(list_jobs(tmp_path, tell=told.append)) == before
        assert comparable(list_jobs(tmp_path, tell=told.append)) == before
    (sentence,) = told
    assert sentence in caplog.text and f"{JOBS} jobs came back" in sentence
    assert all(name in sentence for name in asides(tmp_path))


def test_two_losses_leave_two_names(tmp_path, before):
    for _ in range(2):
        text(tmp_path)
        list_jobs(tmp_path)
    assert len(asides(tmp_path)) == 2


def test_pictures_without_a_file_are_listed_by_their_hash(tmp_path):
    """As an older version of the pack kept them."""
    sha256 = Vault(tmp_path / VAULT_FOLDER).put(b"picture", "image/png").sha256
    (row,) = list_jobs(tmp_path)
    assert (row.state, row.sha256, row.request_id, row.prompt_start) == ("KEPT", sha256, None, "")


def test_what_lies_beside_and_is_nothing_of_ours_changes_nothing(tmp_path):
    (tmp_path / VAULT_FOLDER).mkdir()
    (tmp_path / FILES_FOLDER).mkdir()
    (tmp_path / VAULT_FOLDER / "holiday.png").write_bytes(b"mine")
    (tmp_path / FILES_FOLDER / "notes.json").write_text("{}")
    with contextlib.closing(open_journal(tmp_path)) as journal:
        assert journal.is_blank() and not journal.history_is_due()


def test_a_job_that_was_merged_into_another_does_not_come_back(tmp_path, before):
    """A recovery by request_id has a file of its own, which stays when its row joins the row of the inputs."""
    twin = list_jobs(tmp_path)[0]
    files = JobFiles(tmp_path / FILES_FOLDER)
    with contextlib.closing(Journal(tmp_path / "elsewhere")) as journal:
        files.update(journal.adopt(twin.request_id))
    told = []
    assert comparable(list_jobs(tmp_path, tell=told.append)) == before and not told


def test_a_newer_version_is_left_alone(tmp_path, before):
    with contextlib.closing(sqlite3.connect(journal_of(tmp_path))) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for _ in range(2):
        with pytest.raises(SegmindError, match="newer version of this pack") as said:
            list_jobs(tmp_path)
    assert said.value.money == NOTHING_SENT and not asides(tmp_path)


class Killed(BaseException):
    pass


STEPS = {
    "before it is set aside": (Path, "rename"),
    "between its parts": (Path, "rename", 1),
    "after it was set aside": (durable, "sync_folder", 1),
    "before the new one is made": (journal_restore, "Journal"),
    "before the jobs are back": (JournalIntake, "restore"),
    "in the middle of the jobs": (JournalIntake, "_take_in", 2),
}


def dying(place, name, after=0):
    """That step, which ends the process after so many calls of it."""
    original, calls = getattr(place, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if len(calls) > after:
            os._exit(9)
        return original(*args, **kwargs)

    setattr(place, name, deadly)


def open_and_die(folder, step):
    dying(*STEPS[step])
    open_journal(folder)
    os._exit(0)


@fork
@pytest.mark.parametrize("damage", [cut, a_folder], ids=lambda one: one.__name__)
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_next_start_does_it(tmp_path, before, step, damage):
    damage(tmp_path)
    for suffix in ("-wal", "-shm"):
        Path(f"{journal_of(tmp_path)}{suffix}").write_bytes(b"part of it")
    child = multiprocessing.get_context("fork").Process(target=open_and_die, args=(tmp_path, step))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    with contextlib.closing(open_journal(tmp_path)) as journal:
        assert comparable(journal.rows()) == before
        assert journal.history_is_due()
    assert asides(tmp_path)


def looking_slowly(look):
    """Between seeing that the file is damaged and moving it, another process may have put a good one there."""

    def slow(path):
        found = look(path)
        time.sleep(random.uniform(0, 0.1))
        return found

    return slow


def open_and_look(folder, gate, answers):
    random.seed(os.getpid())
    journal_restore.damaged_because = looking_slowly(journal_restore.damaged_because)
    gate.wait()
    told = []
    with contextlib.closing(open_journal(folder, tell=told.append)) as journal:
        answers.put((comparable(journal.rows()), journal.is_in_place()))


@fork
@pytest.mark.parametrize("damage", [delete, cut, text, a_folder], ids=lambda one: one.__name__)
def test_many_processes_at_once_set_one_file_aside(tmp_path, before, damage):
    damage(tmp_path)
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(6), context.Queue()
    children = [context.Process(target=open_and_look, args=(tmp_path, gate, answers)) for _ in range(6)]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert found == [(before, True)] * 6
    assert len(asides(tmp_path)) == (0 if damage is delete else 1)


@pytest.mark.parametrize(
    ("place", "name", "error", "words"),
    [
        (Path, "rename", OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (Path, "rename", OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
        (
            journal_restore,
            "Journal",
            sqlite3.OperationalError("unable to open database file"),
            "The folder of jobs and pictures cannot be written",
        ),
        (
            journal_restore,
            "Journal",
            sqlite3.OperationalError("database is locked"),
            "Another program holds the job journal",
        ),
        (JournalIntake, "restore", sqlite3.OperationalError("database or disk is full"), "The disk is full"),
        (JournalIntake, "restore", sqlite3.OperationalError("disk I/O error"), "could not be read or written"),
        (durable, "make_folder", PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
    ],
)
def test_a_disk_that_does_not_let_us_is_three_sentences_and_loses_nothing(
    tmp_path, before, monkeypatch, place, name, error, words
):
    text(tmp_path)

    def failing(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch, pytest.raises(SegmindError) as said:
        patch.setattr(place, name, failing)
        list_jobs(tmp_path)
    assert words in said.value.what and str(error) in said.value.what
    assert said.value.money == NOTHING_SENT and said.value.todo.endswith("Then run again.")
    assert comparable(list_jobs(tmp_path)) == before


def test_a_lock_file_that_is_damaged_is_made_anew(tmp_path, before):
    text(tmp_path)
    (tmp_path / journal_restore.LOCK_FILE).write_text("what is this, and who has put it here? " * 50)
    with pytest.raises(SegmindError):
        list_jobs(tmp_path)
    assert comparable(list_jobs(tmp_path)) == before


@pytest.mark.parametrize("damage", [None, *DAMAGES], ids=lambda one: one.__name__ if one else "none")
def test_looking_changes_no_file(tmp_path, before, damage):
    if damage:
        damage(tmp_path)

    def hashes():
        files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    known = hashes()
    damaged_because(journal_of(tmp_path))
    assert hashes() == known


def test_a_good_file_that_is_put_there_between_two_looks_is_not_damaged(tmp_path, before, monkeypatch):
    journal, missed, stat = journal_of(tmp_path), [], Path.stat
    Path(f"{journal}-wal").write_bytes(b"part of it")

    def stat_before_it_was_there(path, **options):
        if path == journal and not missed:
            missed.append(path)
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_before_it_was_there)
    assert not damaged_because(journal) and missed
