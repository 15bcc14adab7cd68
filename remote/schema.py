"""The journal's tables, and a row of it as a value."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1

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


@dataclass(frozen=True)
class Row:
    """One attempt. Times are Unix seconds; `cost_usd` None is unknown, which is not zero."""

    id: int
    fingerprint: str
    attempt: int
    state: str
    owner: str | None
    prompt_start: str
    seed: int | None
    body_digest: str
    request_id: str | None
    url: str
    sha256: str
    note: str
    budget: str
    reserved_usd: float
    cost_usd: float | None
    remaining_usd: float | None
    queue_s: float | None
    inference_s: float | None
    created_at: float
    submitted_at: float | None
    changed_at: float | None
