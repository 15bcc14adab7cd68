"""The journal's database file: one connection, its transactions, and rows as values."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from .rows import COLUMNS, Row, create_tables, row_of

BUSY_S = 30.0  # a backup or a virus scanner holds the file for seconds

_NAMES = ", ".join(COLUMNS)


class JournalFile:
    """An open journal file. Use from one thread; other processes may have it open too.

    Args:
        path: the database file; its folder must exist.
        now: wall clock, Unix seconds.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path, self._now = path, now
        self._db = connect(path)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        _set_wal(self._db)
        for pragma in ("synchronous=FULL", "fullfsync=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        with self._write() as db:
            create_tables(db, self._path)
        self._path.chmod(0o600)
        self._file = _identity(self._path)

    def is_in_place(self) -> bool:
        """Whether the file under the journal's name is still the one that is open here."""
        return self._file == _identity(self._path)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:  # a full disk may have rolled it back already, or may have stopped the COMMIT
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _insert(self, row: Row) -> None:
        """A new row; its `id` is the database's to give."""
        names = COLUMNS[1:]
        marks = ", ".join("?" * len(names))
        values = [getattr(row, name) for name in names]
        self._db.execute(f"INSERT INTO jobs ({', '.join(names)}) VALUES ({marks})", values)

    def _one(self, where: str, *values: object) -> Row | None:
        return next(self._select(where, *values), None)

    def _select(self, where: str, *values: object) -> Iterator[Row]:
        for found in self._db.execute(f"SELECT {_NAMES} FROM jobs WHERE {where}", values):
            yield row_of(found)


def connect(path: Path, mode: str = "rwc", wait_s: float = BUSY_S) -> sqlite3.Connection:
    """A connection that begins and ends its transactions only as it is told.

    Args:
        mode: ro, rw, or rwc, which makes the file where it is missing.
        wait_s: for another program that holds it.
    """
    text = path.absolute().as_posix()  # as_uri names a network share in a way that sqlite refuses
    address = f"file://{'' if text.startswith('/') else '/'}{quote(text, safe='/:')}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=wait_s, isolation_level=None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _set_wal(db: sqlite3.Connection) -> None:
    """Switches to write-ahead logging; sqlite does not wait by itself while another process does the same."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
