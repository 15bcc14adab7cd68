"""The part of the journal that knows of jobs it did not make: from the files beside it and the account's history.

A journal can be lost, and one from a backup knows less than has happened since. Nothing here sends or may be sent:
rows come in as they are known, and the states lead on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .journal_file import JournalFile
from .protocol import KEEPS_S
from .rows import OPEN, UNANSWERED, UNBILLED, Row, State, adopted, state_in

FOUND = "from the account's history"  # the note of what came from there
UNREADABLE = "unreadable"  # in place of a body_digest: the history tells of the job and not of its inputs


class JournalIntake(JournalFile):
    """What came back, and whether more may."""

    def attempts(self) -> set[tuple[str, int]]:
        """The fingerprint and attempt of every row."""
        return set(self._db.execute("SELECT fingerprint, attempt FROM jobs"))

    def is_blank(self) -> bool:
        """Whether it has never known a job, nor been rebuilt."""
        query = "SELECT NOT EXISTS (SELECT 1 FROM jobs) AND NOT EXISTS (SELECT 1 FROM rebuilds)"
        return bool(self._db.execute(query).fetchone()[0])

    def restore(self, rows: Iterable[Row], *, lost: bool) -> int:
        """Takes in rows that files here remember; how many were not known yet.

        From then on nothing new is sent before the account's history has been read.

        Args:
            lost: an earlier journal is gone, so that the history is to be read even when no row came back.
        """
        with self._write() as db:
            count = sum(self._take_in(row) for row in rows)
            if count or lost:
                db.execute("INSERT INTO rebuilds VALUES (?, NULL)", (self._now(),))
        return count

    def history_is_due(self) -> bool:
        """Whether the account may know of jobs that nothing here remembers."""
        query = "SELECT 1 FROM rebuilds WHERE history_read_at IS NULL AND rebuilt_at > ?"
        return self._db.execute(query, (self._now() - KEEPS_S,)).fetchone() is not None

    def join(self, found: Iterable[tuple[Row, str]]) -> None:
        """Takes in what the account's history shows, oldest first, which has been read to its end now.

        Args:
            found: each row with the digest of its exact body; what a lost submit here may have made is left to the
                search for that submit.
        """
        with self._write() as db:
            for row, digest in found:
                searched = self._one(f"{state_in(*UNANSWERED)} AND body_digest = ?", digest)
                if not digest or searched is None:
                    last = self._one("fingerprint = ? ORDER BY attempt DESC LIMIT 1", row.fingerprint)
                    self._take_in(row, attempt=last.attempt + 1 if last else 1)
            db.execute("UPDATE rebuilds SET history_read_at = ? WHERE history_read_at IS NULL", (self._now(),))

    def catch_up(self, id: int, known: Row) -> bool:
        """Brings a row on to what its file knows already: UNKNOWN, ACCEPTED or KEPT.

        A row that is known by its request_id alone, or from the history, becomes one with it. False when any other
        row has that request_id; one that was to be sent is UNKNOWN even so.
        """
        with self._write() as db:
            other = self._one("request_id = ? AND id <> ?", known.request_id, id)
            if other and (other.fingerprint == adopted(other.request_id or "") or other.note == FOUND):
                db.execute("DELETE FROM jobs WHERE id = ?", (other.id,))
                known, other = (replace(known, state=State.KEPT, sha256=other.sha256) if other.sha256 else known), None
            if other:
                known = replace(known, state=State.UNKNOWN, request_id=None)
            db.execute(
                "UPDATE jobs SET state = ?, request_id = COALESCE(?, request_id), sha256 = ?,"
                " body_digest = COALESCE(NULLIF(?, ''), body_digest), submitted_at = COALESCE(?, submitted_at),"
                " cost_usd = COALESCE(?, cost_usd), note = '', changed_at = ?"
                f" WHERE id = ? AND {state_in(*OPEN)}",
                (
                    known.state, known.request_id, known.sha256 if known.state == State.KEPT else "", known.body_digest,
                    known.submitted_at, known.cost_usd, self._now(), id,
                ),
            )  # fmt: skip
        return other is None

    def twin(self, outline: str = UNREADABLE) -> Row | None:
        """A job out of the history that may be the one with this outline; None once its picture cannot be had."""
        return self._one(
            f"body_digest IN (?, ?) AND NOT {state_in(*UNBILLED)} AND submitted_at > ?"
            " ORDER BY body_digest = ? DESC, id DESC LIMIT 1",
            outline, UNREADABLE, self._now() - KEEPS_S, outline,
        )  # fmt: skip

    def shown(self, name: str) -> Row | None:
        """The kept job of that request_id, or whose picture has that sha256."""
        kept = state_in(State.KEPT)
        return self._one(f"{kept} AND (request_id = ? OR sha256 = ?) ORDER BY id DESC LIMIT 1", name, name)

    def _take_in(self, row: Row, attempt: int = 0) -> bool:
        """Whether it was not known; a request_id has one row."""
        attempt = attempt or row.attempt
        if self._one("(fingerprint = ? AND attempt = ?) OR request_id = ?", row.fingerprint, attempt, row.request_id):
            return False
        self._insert(replace(row, attempt=attempt))
        return True
