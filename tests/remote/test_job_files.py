"""A job's file: made once, whole or not there, and read whatever befell it."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klein9b.remote.job_files import JobFiles
from klein9b.remote.journal import Journal
from klein9b.remote.rows import Row

FINGERPRINT = "a1" * 32
SENT = Row(
    id=0,
    fingerprint=FINGERPRINT,
    attempt=2,
    state="UNKNOWN",
    prompt_start="a red fox \u00e9",
    seed=7,
    body_digest="d",
    created_at=5.0,
    submitted_at=6.0,
)


@pytest.fixture
def files(tmp_path):
    return JobFiles(tmp_path / "jobs")


def known(row, **more):
    return Row(**{**vars(row), **more})


def test_what_is_known_comes_back_as_the_state_it_makes(files):
    assert files.begin(SENT)
    assert files.read(FINGERPRINT, 2) == SENT
    accepted = known(SENT, request_id="request-1")
    files.update(accepted)
    assert files.read(FINGERPRINT, 2) == known(accepted, state="ACCEPTED")
    kept = known(accepted, sha256="0" * 64, cost_usd=0.04, remaining_usd=9.0, queue_s=1.0, inference_s=2.0)
    files.update(kept)
    assert files.read(FINGERPRINT, 2) == known(kept, state="KEPT")
    assert files.attempts() == {(FINGERPRINT, 2)}


def test_an_attempt_is_begun_once_until_it_is_dropped(files, tmp_path):
    other = JobFiles(tmp_path / "jobs")
    assert files.begin(SENT) and not other.begin(SENT) and other.begin(known(SENT, attempt=3))
    files.drop(SENT)
    assert files.read(FINGERPRINT, 2) is None and other.begin(SENT)


def test_only_the_owner_reads_it(files):
    files.begin(SENT)
    (path,) = files.directory.iterdir()
    assert path.stat().st_mode & 0o077 == files.directory.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["../../etc", "a/b" * 9, "short", "x" * 65, "request ../up/one"])
def test_only_fingerprints_are_names(files, name):
    with pytest.raises(ValueError, match="job file"):
        files.begin(known(SENT, fingerprint=name))
    assert not list(files.directory.iterdir())


def test_a_full_disk_leaves_the_name_free(files, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.begin(SENT)
    assert not files.attempts() and files.begin(SENT)


def test_a_full_disk_leaves_the_file_as_it_was(files, monkeypatch):
    files.begin(SENT)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            files.update(known(SENT, request_id="request-1"))
    assert files.read(FINGERPRINT, 2) == SENT
    assert len(list(files.directory.iterdir())) == 1


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
FIELDS = [name for name in vars(SENT) if name not in ("id", "fingerprint", "attempt")]


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=80) | st.dictionaries(st.sampled_from(FIELDS), VALUES).map(lambda d: json.dumps(d).encode()))
def test_whatever_is_in_it_the_attempt_counts_as_sent_and_the_journal_can_hold_it(files, tmp_path, content):
    files.begin(SENT)
    (path,) = files.directory.iterdir()
    path.write_bytes(content)
    row = files.read(FINGERPRINT, 2)
    assert row.state in ("UNKNOWN", "ACCEPTED", "KEPT") and row.submitted_at
    assert (row.state == "UNKNOWN") == (row.request_id is None)
    (tmp_path / "j").unlink(missing_ok=True)
    journal = Journal(tmp_path / "j")
    assert journal.restore([row], lost=False) == 1 and journal.rows()[0].fingerprint == FINGERPRINT
    journal.close()
