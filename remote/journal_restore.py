"""Opening the journal of a folder, and making it whole where it was lost: nothing is paid for again.

A damaged file is set aside under a name of its own, never deleted. What it held comes back from the job files and the
kept pictures, and before anything is sent from the account's history (`history`). A folder that has none of
these, and no journal, is a first use.

Killed at any moment, the next start finds the same or less to do: setting aside is done under a lock and seen by the
name it leaves, rows come back in one transaction, and until they have the journal is blank.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from . import durable, explain
from .errors import NOTHING_SENT
from .job_files import JobFiles
from .journal import LEASE_S, Journal
from .journal_check import BESIDE, damaged_because, is_damage, unwritable_because
from .journal_file import connect
from .redaction import RedactingFilter
from .rows import Row, State, pictured
from .vault import Vault

JOURNAL_FILE, VAULT_FOLDER, FILES_FOLDER, LOCK_FILE = "jobs.sqlite", "results", "jobs", "jobs.lock"
ASIDE = ".damaged-"

log = logging.getLogger(__name__)
log.addFilter(RedactingFilter())


def open_journal(
    directory: Path,
    *,
    lease_s: float = LEASE_S,
    now: Callable[[], float] = time.time,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Journal:
    """The journal of a folder, which is made where it is missing.

    Args:
        lease_s, now: see `Journal`.
        tell: hears, in a sentence, of an earlier journal that was lost; the log hears of it too.

    Raises:
        SegmindError: the disk does not let us, or a newer version of this pack wrote it. Nothing was sent.
    """
    path = directory / JOURNAL_FILE
    with explain.on_disk(NOTHING_SENT):
        durable.make_folder(directory)
        aside = set_aside(path, now(), damaged_because) or set_aside(path, now(), unwritable_because)
        journal = Journal(path, lease_s=lease_s, now=now)
        try:
            restored = _restored(journal, directory)
        except BaseException:
            journal.close()
            raise
    if aside or restored is not None:
        sentence = explain.journal_lost(aside, restored or 0)
        log.warning("Segmind: %s", sentence)
        tell(sentence)
    return journal


def set_aside(path: Path, now: float, look: Callable[[Path], str]) -> str:
    """Moves a damaged file and what lies beside it out of the way; its new name and its flaw.

    Empty when nothing is wrong, or another process has done so meanwhile.

    Args:
        look: says what is wrong with a file.
    """
    try:
        if not look(path):
            return ""
    except sqlite3.OperationalError:
        if path.exists():
            raise  # else another process is just setting it aside
    with _alone(path.with_name(LOCK_FILE)):
        found = look(path)
        if not found:
            return ""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        name = f"{path.name}{ASIDE}{stamp}-{uuid.uuid4().hex[:6]}"
        for suffix in ("", *BESIDE):
            source = Path(f"{path}{suffix}")
            if os.path.lexists(source):
                source.rename(path.with_name(name + suffix))
        durable.sync_folder(path.parent)
    return f"{name} ({found})"


def _restored(journal: Journal, directory: Path) -> int | None:
    """How many rows came back; None when nothing was lost."""
    files, vault = JobFiles(directory / FILES_FOLDER), Vault(directory / VAULT_FOLDER)
    remembered = files.attempts()  # before the rows are read: a row is always older than its file
    missing = remembered - journal.attempts()
    rows = [row for row in (files.read(*one) for one in sorted(missing)) if row]
    rows.sort(key=lambda row: row.created_at)
    if not journal.is_blank():
        return journal.restore(rows, lost=False) or None
    rows = _bare_pictures(vault, rows) + rows
    lost = bool(rows) or any(directory.glob(f"{JOURNAL_FILE}{ASIDE}*"))
    return journal.restore(rows, lost=lost) if lost else None


def _bare_pictures(vault: Vault, rows: list[Row]) -> list[Row]:
    """Kept pictures of which no file tells where they are from, oldest first."""
    told = {row.sha256 for row in rows}
    bare = [kept for kept in reversed(vault.listing()) if kept.sha256 not in told]
    return [
        Row(0, pictured(kept.sha256), 1, State.KEPT, sha256=kept.sha256, created_at=kept.path.stat().st_mtime)
        for kept in bare
    ]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go of a dead one's lock, since sqlite's locks are the system's."""
    with contextlib.closing(connect(path)) as db:
        try:
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                path.unlink()
            raise
        yield
