"""Whether a journal's file is good, seen while others write it."""

import contextlib
import sqlite3

from klein9b.remote import journal_check
from klein9b.remote.journal import Journal
from klein9b.remote.journal_file import connect
from klein9b.remote.rows import SCHEMA_VERSION


def test_a_journal_made_between_two_looks_is_good(tmp_path, monkeypatch):
    """Its version and its tables are of one moment."""
    path = tmp_path / "jobs.sqlite"

    class Slow(sqlite3.Connection):
        def execute(self, sql, *values):
            if "sqlite_master" in sql:
                Journal(path).close()
            return super().execute(sql, *values)

    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
    monkeypatch.setattr(journal_check, "connect", lambda *_: sqlite3.connect(path, factory=Slow, isolation_level=None))
    assert journal_check.damaged_because(path) == ""
    with contextlib.closing(connect(path, "ro")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
