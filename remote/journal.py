"""What was asked, accepted and paid, in sqlite: a job survives a crash without a second charge.

One row is one attempt: at most one submit that the server can have accepted. States and who may leave them:

    PLANNED     nothing sent                     -> SUBMITTING, or the row is discarded
    SUBMITTING  on disk before the first byte    -> ACCEPTED, UNKNOWN, REJECTED, PLANNED (proof it never left)
    UNKNOWN     maybe accepted, never sent again -> ACCEPTED (found in the account's history), or the state of
                the row that `adopt` made of the same job; where its sender was only slow, what the
                late answer says
    ACCEPTED    request_id on disk               -> COMPLETED, KEPT, FAILED, EXPIRED
    COMPLETED   the picture's address known      -> KEPT, FAILED, EXPIRED
    KEPT        the bytes are in the vault       final, unless the vault loses them (-> ACCEPTED)
    FAILED      accepted, not billed             final; the next run opens a new attempt
    REJECTED    refused, not billed              final; the next run opens a new attempt
    EXPIRED     the picture can no longer be had final

Every change is a compare-and-set inside BEGIN IMMEDIATE, WAL with synchronous=FULL, so that two ComfyUI
processes on one folder agree. An owner proves it lives by its beat; the money rules do not depend on the
clock being right, only on these compare-and-sets. The key is never here, of the prompt only its start.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .journal_file import connect
from .journal_intake import JournalIntake
from .redaction import redact
from .rows import AWAITED, OPEN, UNANSWERED, UNBILLED, Row, State, adopted, pictured, state_in

PROMPT_START = 60
LEASE_S = 10.0  # four beats: an owner is not taken for dead because the disk was slow once
UNKNOWN_SETTLED_S = 60.0  # the last look into the history is over by then
AVERAGE_COST_USD = 0.0402  # published average for this model, 2026-08


class OverspendError(Exception):
    """The reservation would pass the cap."""

    def __init__(self, committed_usd: float, estimate_usd: float, cap_usd: float) -> None:
        super().__init__(committed_usd, estimate_usd, cap_usd)
        self.committed_usd, self.estimate_usd, self.cap_usd = committed_usd, estimate_usd, cap_usd


class Journal(JournalIntake):
    """The journal of one folder. Use from one thread; other processes may have it open too.

    Args:
        path: the database file; its folder must exist.
        now: wall clock, Unix seconds.
        lease_s: how long an owner that stopped beating is still believed to live.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time, lease_s: float = LEASE_S) -> None:
        super().__init__(path, now)
        self.owner, self._lease_s = uuid.uuid4().hex, lease_s

    def close(self) -> None:
        """Leaves every job free for others to take."""
        try:
            with self._write() as db:
                db.execute("UPDATE jobs SET owner = NULL WHERE owner = ?", (self.owner,))
                db.execute("DELETE FROM owners WHERE owner = ?", (self.owner,))
        finally:
            self._db.close()

    def beat(self) -> None:
        """Tells other processes that this one lives; call every second or two."""
        with self._write() as db:
            db.execute("REPLACE INTO owners VALUES (?, ?)", (self.owner, self._now()))

    def claim(self, fingerprint: str, *, prompt: str, seed: int, new: bool = False) -> Row:
        """The attempt that answers this request: the one there is, else a PLANNED one of ours.

        Args:
            new: open another attempt where the last has ended, or its outcome could not be found out; one
                that is under way is shared all the same.
        """
        with self._write() as db:
            last = self._one("fingerprint = ? ORDER BY attempt DESC LIMIT 1", fingerprint)
            if last and not (last.state in UNBILLED or (new and self._is_over(last))):
                return last
            attempt = last.attempt + 1 if last else 1
            db.execute("REPLACE INTO owners VALUES (?, ?)", (self.owner, self._now()))
            db.execute(
                "INSERT INTO jobs (fingerprint, attempt, state, owner, prompt_start, seed, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (fingerprint, attempt, State.PLANNED, self.owner, prompt[:PROMPT_START], seed, self._now()),
            )
            return self._last_inserted()

    def adopt(self, request_id: str) -> Row:
        """The row of a job that is known by its request_id alone, made where there is none."""
        with self._write() as db:
            row = self._one("request_id = ?", request_id)
            if row:
                return row
            db.execute(
                "INSERT INTO jobs (fingerprint, attempt, state, prompt_start, request_id, created_at,"
                " submitted_at) VALUES (?, 1, ?, '', ?, ?, ?)",
                (adopted(request_id), State.ACCEPTED, request_id, self._now(), self._now()),
            )
            return self._last_inserted()

    def take(self, id: int) -> Row | None:
        """The row, ours to work on unless it is final or its owner lives (then `owner` says whose).

        A SUBMITTING row that nobody is sending becomes UNKNOWN: whether its bytes left cannot be known.
        """
        with self._write() as db:
            row = self._one("id = ?", id)
            if row is None or row.state not in OPEN or self._lives_elsewhere(row):
                return row
            state = State.UNKNOWN if row.state == State.SUBMITTING else row.state
            db.execute("UPDATE jobs SET owner = ?, state = ? WHERE id = ?", (self.owner, state, id))
            db.execute("REPLACE INTO owners VALUES (?, ?)", (self.owner, self._now()))
            return self._one("id = ?", id)

    def release(self, id: int) -> None:
        with self._write() as db:
            db.execute("UPDATE jobs SET owner = NULL WHERE id = ? AND owner = ?", (id, self.owner))

    def submitting(
        self,
        id: int,
        body_digest: str,
        *,
        budget: str = "",
        cap_usd: float | None = None,
        estimate_usd: float = 0.0,
    ) -> bool:
        """PLANNED to SUBMITTING with its reservation; True means: send, once.

        Raises:
            OverspendError: this estimate on top of what `budget` has spent and reserved passes `cap_usd`.
        """
        with self._write() as db:
            committed = self.committed_usd(budget) if budget else 0.0
            if cap_usd is not None and committed + estimate_usd > cap_usd + 1e-9:
                raise OverspendError(committed, estimate_usd, cap_usd)
            done = db.execute(
                "UPDATE jobs SET state = ?, body_digest = ?, budget = ?, reserved_usd = ?, submitted_at = ?"
                f" WHERE id = ? AND {state_in(State.PLANNED)} AND owner = ?",
                (State.SUBMITTING, body_digest, budget, estimate_usd, self._now(), id, self.owner),
            )
            return done.rowcount == 1

    def not_sent(self, id: int) -> None:
        """Back to PLANNED: whoever sent it has proof that nothing was accepted."""
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = ?, reserved_usd = 0, submitted_at = NULL"
                f" WHERE id = ? AND {state_in(*UNANSWERED)}",
                (State.PLANNED, id),
            )

    def unknown(self, id: int, why: str) -> None:
        self._move(id, (State.SUBMITTING,), State.UNKNOWN, note=why)

    def accepted(self, id: int, request_id: str) -> None:
        """The server's own answer to our submit; UNKNOWN should another row have that request_id."""
        with self._write() as db:
            if not self._name(id, request_id, *UNANSWERED):
                sending = state_in(State.SUBMITTING)
                db.execute(f"UPDATE jobs SET state = ? WHERE id = ? AND {sending}", (State.UNKNOWN, id))

    def found(self, id: int, request_id: str) -> bool:
        """UNKNOWN to ACCEPTED with a request_id out of the account's history.

        False when another attempt holds it, or is just being sent with the same body and may prove to.
        """
        same_body = "body_digest = (SELECT body_digest FROM jobs WHERE id = ?)"
        with self._write():
            twin = self._one(f"id <> ? AND {state_in(State.SUBMITTING)} AND {same_body}", id, id)
            return twin is None and self._name(id, request_id, State.UNKNOWN)

    def completed(self, id: int, url: str) -> None:
        self._move(id, AWAITED, State.COMPLETED, url=url)

    def settle(
        self,
        id: int,
        cost_usd: float | None,
        remaining_usd: float | None = None,
        queue_s: float | None = None,
        inference_s: float | None = None,
    ) -> None:
        """Writes what is known; what is None stays as it was."""
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET cost_usd = COALESCE(?, cost_usd),"
                " remaining_usd = COALESCE(?, remaining_usd), queue_s = COALESCE(?, queue_s),"
                " inference_s = COALESCE(?, inference_s) WHERE id = ?",
                (cost_usd, remaining_usd, queue_s, inference_s, id),
            )

    def kept(self, id: int, sha256: str) -> None:
        """The row now says where its picture is from, which until then may have been known by its hash alone."""
        self._move(id, AWAITED, State.KEPT, sha256=sha256)
        with self._write() as db:
            db.execute("DELETE FROM jobs WHERE fingerprint = ?", (pictured(sha256),))

    def lost_bytes(self, id: int) -> None:
        """KEPT back to ACCEPTED: the vault no longer has them, Segmind may."""
        self._move(id, (State.KEPT,), State.ACCEPTED, sha256="")

    def failed(self, id: int, why: str) -> None:
        self._move(id, AWAITED, State.FAILED, note=why)

    def rejected(self, id: int, why: str) -> None:
        self._move(id, UNANSWERED, State.REJECTED, note=why)

    def expired(self, id: int, why: str) -> None:
        self._move(id, AWAITED, State.EXPIRED, note=why)

    def discard(self, id: int) -> bool:
        """Forgets a row from which nothing was sent."""
        with self._write() as db:
            query = f"DELETE FROM jobs WHERE id = ? AND {state_in(State.PLANNED)} AND owner = ?"
            done = db.execute(query, (id, self.owner))
            return done.rowcount == 1

    def row(self, id: int) -> Row | None:
        return self._one("id = ?", id)

    def rows(self, limit: int = 100) -> list[Row]:
        """Newest first."""
        return list(self._select("1 ORDER BY id DESC LIMIT ?", limit))

    def committed_usd(self, budget: str) -> float:
        """Dollars spent or reserved under `budget`; a cost that is not known counts as its reservation."""
        query = (
            "SELECT COALESCE(SUM(COALESCE(cost_usd, reserved_usd)), 0) FROM jobs"
            f" WHERE budget = ? AND NOT {state_in(*UNBILLED)}"
        )
        return float(self._db.execute(query, (budget,)).fetchone()[0])

    def estimate_usd(self) -> float:
        """What the next job may cost: the dearest of the last twenty, at least the published average."""
        return _estimate_usd(self._db)

    def durations_s(self) -> list[float]:
        """Of the last twenty jobs that told them, oldest first."""
        found = self._select("inference_s IS NOT NULL ORDER BY id DESC LIMIT 20")
        return [row.duration_s or 0.0 for row in found][::-1]

    def upload(self, sha256: str, host: str, newer_than_s: float) -> str | None:
        """The address under which these bytes are online already."""
        since = self._now() - newer_than_s
        query = "SELECT url FROM uploads WHERE sha256 = ? AND host = ? AND uploaded_at > ?"
        found = self._db.execute(query, (sha256, host, since)).fetchone()
        return found[0] if found else None

    def uploaded(self, sha256: str, host: str, url: str) -> None:
        with self._write() as db:
            db.execute("REPLACE INTO uploads VALUES (?, ?, ?, ?)", (sha256, host, url, self._now()))

    def _move(self, id: int, before: tuple[State, ...], after: State, **values: str) -> None:
        """`before` to `after`; a row that another process has moved on already stays as it is."""
        if "note" in values:
            values["note"] = redact(values["note"])
        changes = "".join(f", {name} = ?" for name in values)
        with self._write() as db:
            db.execute(
                f"UPDATE jobs SET state = ?, changed_at = ?{changes} WHERE id = ? AND {state_in(*before)}",
                (after, self._now(), *values.values(), id),
            )

    def _name(self, id: int, request_id: str, *before: State) -> bool:
        """Gives a row its request_id; what `adopt` knows under that name becomes this row's, which has the inputs."""
        row, holder = self._one("id = ?", id), self._one("request_id = ?", request_id)
        if row is None or row.state not in before or (holder and holder.fingerprint != adopted(request_id)):
            return False
        known = holder or replace(row, state=State.ACCEPTED, note="")
        learnt = (known.state, known.note, known.url, known.sha256, known.cost_usd, known.remaining_usd)
        self._db.execute("DELETE FROM jobs WHERE request_id = ?", (request_id,))
        self._db.execute(
            "UPDATE jobs SET request_id = ?, state = ?, note = ?, url = ?, sha256 = ?, cost_usd = ?,"
            " remaining_usd = ?, changed_at = ? WHERE id = ?",
            (request_id, *learnt, self._now(), id),
        )
        return True

    def _is_over(self, row: Row) -> bool:
        searched = row.owner is None and self._now() - (row.submitted_at or 0.0) > UNKNOWN_SETTLED_S
        return searched if row.state == State.UNKNOWN else row.state not in OPEN

    def _lives_elsewhere(self, row: Row) -> bool:
        if row.owner is None or row.owner == self.owner:
            return False
        query = "SELECT 1 FROM owners WHERE owner = ? AND beat_at > ?"
        return self._db.execute(query, (row.owner, self._now() - self._lease_s)).fetchone() is not None

    def _last_inserted(self) -> Row:
        row = self._one("id = last_insert_rowid()")
        assert row is not None
        return row


def read_estimate_usd(path: Path) -> float:
    """`Journal.estimate_usd` at a glance: nothing is made, mended or waited for.

    The published average where there is no journal, or none that can be read now.
    """
    try:
        with contextlib.closing(connect(path, "ro", wait_s=0.0)) as db:
            return _estimate_usd(db)
    except sqlite3.Error:
        return AVERAGE_COST_USD


def _estimate_usd(db: sqlite3.Connection) -> float:
    query = "SELECT MAX(cost_usd) FROM (SELECT cost_usd FROM jobs WHERE cost_usd > 0 ORDER BY id DESC LIMIT 20)"
    return max(AVERAGE_COST_USD, db.execute(query).fetchone()[0] or 0.0)
