"""Whether a submit that got no answer was accepted: the account's history is searched for its exact body. GETs only."""

from __future__ import annotations

import functools
from collections.abc import Callable

from . import explain
from .client import Client
from .dates import DAY_S, day
from .governor import Priority
from .journal import Journal
from .protocol import Record
from .retry import Retrier
from .rows import Row, State

LOOK_AT_S = (3.0, 8.0, 20.0, 45.0)  # after the submit; the history shows most within seconds, some within a minute
PAGES = 10
EARLY_S = 120.0  # by how much the server may date a request before we say that we sent it
LAST_EARLY_S = DAY_S  # the clock may have been set right since the submit
MOST_DAYS = 30  # between the dates of a question; the account answers up to 31


class Reconciler:
    """Searches for lost submits.

    Args:
        age: seconds since a row's submit, by the wall clock.
    """

    def __init__(self, client: Client, journal: Journal, retrier: Retrier, age: Callable[[Row], float]) -> None:
        self._client, self._journal, self._retrier, self._age = client, journal, retrier, age
        self._clock, self._skew_s = retrier.clock, 0.0

    async def find(self, row: Row) -> None:
        """UNKNOWN to ACCEPTED. Never sends it again.

        Raises:
            OutcomeUnknown: the history does not show it, yet.
        """
        age = self._age(row)
        looks = [at for at in LOOK_AT_S if at > age]
        looks = [age, *looks] if age > LOOK_AT_S[0] else looks
        for at in looks:
            await self._clock.sleep(max(0.0, at - self._age(row)))
            now = self._journal.row(row.id)
            if now is None or now.state != State.UNKNOWN or await self._look(row, last=at == looks[-1]):
                return
        raise explain.outcome_unknown(self._journal.row(row.id) or row)

    async def _look(self, row: Row, *, last: bool) -> bool:
        """Whether it is there; looks again where the answer shows that our clock named the wrong days."""
        days = self._days(row, last)
        matches = await self._matches(row, days, last)
        if self._days(row, last) != days:
            matches = await self._matches(row, self._days(row, last), last)
        return any(self._journal.found(row.id, record.request_id) for record in matches)

    async def _matches(self, row: Row, days: tuple[str, str], last: bool) -> list[Record]:
        """Requests with the row's exact body: those since its submit, then those before, the oldest first."""
        matches: list[Record] = []
        for page in range(1, PAGES + 1):
            records = await self._page(days, page)
            since = self._sent_at(row) - (LAST_EARLY_S if last else EARLY_S)
            recent = [record for record in records if (record.created_at or since) >= since]
            matches += [record for record in recent if row.body_digest and record.body_digest == row.body_digest]
            if not records or (records[-1].created_at or since) < since:
                break
        usual = self._sent_at(row) - EARLY_S
        return sorted(matches, key=lambda record: ((record.created_at or usual) < usual, record.created_at or 0.0))

    async def _page(self, days: tuple[str, str], page: int) -> tuple[Record, ...]:
        """A page of the history, empty where there is no answer; learns the server's time from it."""
        deadline, host = self._clock.monotonic() + LOOK_AT_S[0], self._client.hosts.account
        look = functools.partial(self._client.history, *days, page)
        answer = await self._retrier.ask(look, Priority.RESULT, host, deadline)
        if not isinstance(answer, tuple):
            return ()
        records, self._skew_s = answer
        return records

    def _days(self, row: Row, last: bool) -> tuple[str, str]:
        """A day to either side of the submit; the last look goes on to today, should our clock have been slow."""
        sent_at, today = self._sent_at(row), self._clock.wall() + self._skew_s
        newest = max(sent_at, today) if last else sent_at
        return day(sent_at - DAY_S), day(min(newest + DAY_S, sent_at + (MOST_DAYS - 1) * DAY_S))

    def _sent_at(self, row: Row) -> float:
        """When, by the server's clock."""
        return (row.submitted_at or row.created_at) + self._skew_s
