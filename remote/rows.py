"""The journal's tables, and a row of it as a value."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from .errors import NOTHING_SENT, SegmindError

SCHEMA_VERSION = 1

NO_SENSE = "a row makes no sense"


class State(str, Enum):
    """Where an attempt is, as it is spelled on disk; `journal` says what each means and what it leads to."""

    PLANNED = "PLANNED"
    SUBMITTING = "SUBMITTING"
    UNKNOWN = "UNKNOWN"
    ACCEPTED = "ACCEPTED"
    COMPLETED = "COMPLETED"
    KEPT = "KEPT"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"

    __str__ = str.__str__


SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    fingerprint TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    owner TEXT,
    prompt_start TEXT NOT NULL,
    seed INTEGER,
    body_digest TEXT NOT NULL DEFAULT '',
    request_id TEXT UNIQUE,
    url TEXT NOT NULL DEFAULT '',
    sha256 TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    budget TEXT NOT NULL DEFAULT '',
    reserved_usd REAL NOT NULL DEFAULT 0,
    cost_usd REAL,
    remaining_usd REAL,
    queue_s REAL,
    inference_s REAL,
    created_at REAL NOT NULL,
    submitted_at REAL,
    changed_at REAL,
    UNIQUE (fingerprint, attempt)
);
CREATE INDEX jobs_by_budget ON jobs (budget);
CREATE TABLE owners (owner TEXT PRIMARY KEY, beat_at REAL NOT NULL);
CREATE TABLE uploads (
    sha256 TEXT NOT NULL, host TEXT NOT NULL, url TEXT NOT NULL, uploaded_at REAL NOT NULL,
    PRIMARY KEY (sha256, host)
);
"""

# One row for each time that jobs came back from elsewhere; `history_read_at` is NULL until the account's history
# has been read for what nothing here remembers.
REBUILDS = "CREATE TABLE IF NOT EXISTS rebuilds (rebuilt_at REAL NOT NULL, history_read_at REAL)"


UNANSWERED = (State.SUBMITTING, State.UNKNOWN)  # it may or may not have been accepted
AWAITED = (State.ACCEPTED, State.COMPLETED)  # it has a request_id, and its picture is not here
RUNS_ON = (*UNANSWERED, *AWAITED)
OPEN = (State.PLANNED, *RUNS_ON)
UNBILLED = (State.FAILED, State.REJECTED)


@dataclass(frozen=True)
class Row:
    """One attempt. Times are Unix seconds.

    Attributes:
        cost_usd: None is unknown, which is not zero.
    """

    id: int
    fingerprint: str
    attempt: int
    state: State
    owner: str | None = None
    prompt_start: str = ""
    seed: int | None = None
    body_digest: str = ""
    request_id: str | None = None
    url: str = ""
    sha256: str = ""
    note: str = ""
    budget: str = ""
    reserved_usd: float = 0.0
    cost_usd: float | None = None
    remaining_usd: float | None = None
    queue_s: float | None = None
    inference_s: float | None = None
    created_at: float = 0.0
    submitted_at: float | None = None
    changed_at: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", State(self.state))

    @property
    def duration_s(self) -> float | None:
        """From submit to completion as the server tells it, without the way there."""
        return None if self.inference_s is None else (self.queue_s or 0.0) + self.inference_s


def adopted(request_id: str) -> str:
    """The fingerprint of a row whose inputs are not known here."""
    return f"request {request_id}"


def pictured(sha256: str) -> str:
    """The fingerprint of a row of which only the picture is known."""
    return f"picture {sha256}"


def row_of(found: Sequence[Any]) -> Row:
    """A row by its columns.

    Raises:
        sqlite3.DatabaseError: it is in no state that there is.
    """
    try:
        return Row(*found)
    except ValueError:
        raise sqlite3.DatabaseError(NO_SENSE) from None


def state_in(*states: State) -> str:
    """The condition in SQL."""
    named = ", ".join(f"'{state}'" for state in states)
    return f"state IN ({named})"


COLUMNS = tuple(field.name for field in fields(Row))


def create_tables(db: sqlite3.Connection, path: Path) -> None:
    """Makes what is missing, inside the caller's transaction.

    Raises:
        SegmindError: a newer version of this pack wrote the journal.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION):
        raise newer(path, version)
    if version == 0:
        for statement in filter(str.strip, SCHEMA.split(";\n")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute(REBUILDS)


def newer(path: Path, version: int) -> SegmindError:
    return SegmindError(
        f"The job journal {path} was written by a newer version of this pack: its format is {version}, this one"
        f" knows {SCHEMA_VERSION}",
        NOTHING_SENT,
        "Update the pack. The journal is left as it is",
    )
