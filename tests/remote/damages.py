"""Ways in which a journal is lost, each as a function of its folder."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from klein9b.remote.journal import Journal
from klein9b.remote.journal_restore import JOURNAL_FILE
from klein9b.remote.rows import SCHEMA_VERSION

PAGE = 4096


def journal_of(folder):
    return folder / JOURNAL_FILE


def beside(folder):
    return [Path(f"{journal_of(folder)}{suffix}") for suffix in ("-wal", "-shm")]


def delete(folder):
    for path in (journal_of(folder), *beside(folder)):
        path.unlink(missing_ok=True)


def empty(folder):
    delete(folder)
    journal_of(folder).touch()


def blank(folder):
    """A new journal in place of the old one, as an older version of the pack makes it."""
    delete(folder)
    Journal(journal_of(folder)).close()


def cut(folder, keep=5000):
    os.truncate(journal_of(folder), min(keep, journal_of(folder).stat().st_size))


def overwrite(folder, at=PAGE, data=b"\xa5" * PAGE):
    with journal_of(folder).open("r+b") as file:
        file.seek(at)
        file.write(data)


def zero_header(folder):
    overwrite(folder, 0, bytes(100))


def forbid_writing(folder):
    """One byte: reading goes on as before."""
    overwrite(folder, 18, b"\x05")


def another_format(folder):
    overwrite(folder, 44, b"\x00\x00\x00\x05")


def text_that_is_none(folder):
    """In sqlite's own table of tables, or while that is in the log in the file's first byte."""
    overwrite(folder, max(0, journal_of(folder).read_bytes().find(b"owners")), b"\xa5")


def text(folder):
    delete(folder)
    journal_of(folder).write_text("not a database, but long enough to be one. " * 50)


def a_folder(folder):
    delete(folder)
    (journal_of(folder) / "inside").mkdir(parents=True)


def foreign(folder):
    delete(folder)
    with contextlib.closing(sqlite3.connect(journal_of(folder))) as db:
        db.execute("CREATE TABLE photographs (name TEXT)")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def only_the_wal(folder):
    """As a sync tool leaves it that skips what is in use."""
    delete(folder)
    beside(folder)[0].write_bytes(b"\x37\x7f\x06\x82" + bytes(4096))


def wal_of_another(folder):
    """A write-ahead log with good checksums that belongs to another database."""
    other = folder / "other"
    other.mkdir()
    with contextlib.closing(sqlite3.connect(other / "db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE photographs (name TEXT)")
        db.executemany("INSERT INTO photographs VALUES (?)", [("x" * 3000,)] * 5)
        shutil.copy(other / "db-wal", beside(folder)[0])
    shutil.rmtree(other)


def a_state_that_is_none(folder):
    """Every page in order, and one word of a row no longer one."""
    with contextlib.closing(sqlite3.connect(journal_of(folder))) as db, db:
        db.execute("UPDATE jobs SET state = 'AXXEPTED'")


def an_index_that_misses_a_row(folder):
    """Over which the same inputs would find nothing and be paid again."""
    with contextlib.closing(sqlite3.connect(journal_of(folder), isolation_level=None)) as db:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_jobs_2'"
        (page,) = db.execute(query).fetchone()
    leaf = b"\x0a\x00\x00\x00\x00\x10\x00\x00"  # an index page without cells
    overwrite(folder, (page - 1) * PAGE, leaf + bytes(PAGE - len(leaf)))


DAMAGES = [
    delete, empty, blank, cut, overwrite, zero_header, forbid_writing, another_format, text_that_is_none, text,
    a_folder, foreign, only_the_wal, wal_of_another, a_state_that_is_none, an_index_that_misses_a_row,
]  # fmt: skip
