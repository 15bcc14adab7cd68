"""Whether the journal's file can be trusted with money. Looks without changing anything."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from .journal_file import connect
from .lenient_json import one_line
from .rows import AWAITED, COLUMNS, NO_SENSE, SCHEMA_VERSION, Row, State, newer, row_of
from .vault import SHA256

BESIDE = ("-wal", "-shm", "-journal")
MOST_WORDS = 80
LAST_VERSION = 99  # a version above it is no version but damage
DAMAGE_WORDS = ("could not decode", "unsupported file format")  # which sqlite calls operational

_FIRST = {"jobs", "owners", "uploads"}  # the others came later
_TABLES = {
    "jobs": set(COLUMNS),
    "owners": {"owner", "beat_at"},
    "uploads": {"sha256", "host", "url", "uploaded_at"},
    "rebuilds": {"rebuilt_at", "history_read_at"},
}
_TEXTS = ("fingerprint", "state", "prompt_start", "body_digest", "url", "sha256", "note", "budget")
_MAYBE_TEXTS = ("owner", "request_id")


def damaged_because(path: Path) -> str:
    """What is wrong with the file, in a few words; empty when it is whole, empty or not there.

    Raises:
        SegmindError: a newer version of this pack wrote it.
        sqlite3.OperationalError, OSError: it cannot be read now, which says nothing about it.
    """
    found = _status(path)
    if found is None:
        return "it is not a file" if path.is_symlink() else _left_alone(path)
    if not stat.S_ISREG(found.st_mode):
        return "it is not a file"
    if not found.st_size:
        return _left_alone(path)
    try:
        return _examined(path, "ro")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
    return _examined(path, "rw")  # a first start that was killed leaves what only a writer can undo


def unwritable_because(path: Path) -> str:
    """The same for what shows only when it is written to: a header that forbids it, where the disk does not."""
    if not path.is_file() or not path.stat().st_size:
        return ""
    try:
        with contextlib.closing(connect(path, "rw")) as db:
            db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        allowed = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        if "readonly" not in str(error) or not allowed:
            raise
        return "its header forbids writing"
    return ""


def is_damage(error: Exception) -> bool:
    """Whether sqlite says that the file is no good, rather than out of its reach."""
    words = str(error).lower()
    return type(error) in (sqlite3.DatabaseError, sqlite3.DataError) or any(
        telling in words for telling in DAMAGE_WORDS
    )


def _status(path: Path) -> os.stat_result | None:
    """Of one look: between two, another process may put a file there."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _left_alone(path: Path) -> str:
    """sqlite deletes what lies beside a database that is not there."""
    rest = _status(Path(f"{path}-wal"))
    if rest is None or not rest.st_size:
        return ""
    now = _status(path)  # again: what lies there may belong to a database that is there by now
    return "" if now and now.st_size else "only its -wal is left"


def _examined(path: Path, mode: str) -> str:
    try:
        with contextlib.closing(connect(path, mode)) as db:
            db.execute("BEGIN")  # one moment for all looks: another process may just be making its tables
            return _format_flaw(db, path) or _page_flaw(db) or _row_flaw(db)
    except UnicodeDecodeError:  # sqlite's own words hold the damaged bytes
        return "database disk image is malformed"
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return one_line(str(error))[:MOST_WORDS]
        raise


def _format_flaw(db: sqlite3.Connection, path: Path) -> str:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if SCHEMA_VERSION < version <= LAST_VERSION:
        raise newer(path, version)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not tables:
        return ""
    lacking = [name for name in _TABLES if name in tables | _FIRST and not _columns(db, name) >= _TABLES[name]]
    return "" if version == SCHEMA_VERSION and not lacking else "it is the database of another program"


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {found[1] for found in db.execute(f"PRAGMA table_info({table})")}


def _page_flaw(db: sqlite3.Connection) -> str:
    """Also finds an index that misses rows, over which the same inputs would be paid for again."""
    said = one_line(str(db.execute("PRAGMA integrity_check(1)").fetchone()[0]))[:MOST_WORDS]
    return "" if said == "ok" else said


def _row_flaw(db: sqlite3.Connection) -> str:
    """Damage that left every page in order."""
    if not _columns(db, "jobs"):
        return ""
    rows = [row_of(found) for found in db.execute(f"SELECT {', '.join(COLUMNS)} FROM jobs")]
    return NO_SENSE if any(map(_is_odd, rows)) else ""


def _is_odd(row: Row) -> bool:
    texts = [getattr(row, name) for name in _TEXTS] + [getattr(row, name) or "" for name in _MAYBE_TEXTS]
    rest = [getattr(row, name) for name in COLUMNS if name not in _TEXTS + _MAYBE_TEXTS]
    if not all(isinstance(text, str) for text in texts) or any(isinstance(one, (str, bytes)) for one in rest):
        return True
    nameless = row.state in AWAITED and not row.request_id
    bare = row.state == State.KEPT and not SHA256.fullmatch(row.sha256)
    return nameless or bare
