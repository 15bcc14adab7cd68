"""What a lost journal no longer knows, from the account's history: it is read before anything else is sent. GETs only.

Jobs without uploads are recognised by their inputs, so that the same inputs find them again. An upload's address says
nothing of its pixels: a request with as many images and equal settings is refused as one that may be paid already.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from . import explain
from .client import Client
from .dates import DAY_S, day
from .governor import Priority
from .journal import PROMPT_START, Journal
from .journal_intake import FOUND, UNREADABLE
from .protocol import KEEPS_S, Record, Rejection, Reported
from .request import MAX_SEED, fingerprint_of, outline, read_inputs
from .retry import Retrier
from .rows import Row, State, adopted
from .values import Order

ASK_S = 30.0  # for a page; nothing is sent meanwhile, and the person waits
MOST_PAGES = 200  # more than anyone asks in a week: something repeats itself


class History:
    """The history of one account, for the journal of one folder."""

    def __init__(self, client: Client, journal: Journal, retrier: Retrier) -> None:
        self._client, self._journal, self._retrier = client, journal, retrier
        self._reading, self._skew_s = asyncio.Lock(), 0.0

    async def look_back(self, order: Order) -> bool:
        """Before a request is sent: whether the journal has just learnt of jobs that it may be one of.

        Raises:
            Unreachable: the history could not be read to its end.
            SegmindError: a job that it shows may be this one.
        """
        if self._journal.history_is_due():
            await self._join()
            return True
        body = order.request.body([""] * len(order.references))
        twin = self._journal.twin(outline(read_inputs(body))) if order.references else self._journal.twin()
        if twin:
            raise explain.may_be_paid(twin)
        return False

    async def _join(self) -> None:
        """Reads all of the last days into the journal, once."""
        async with self._reading:
            if self._journal.history_is_due():
                records = await self._records()
                self._journal.join([self._row(one) for one in records if one.state != Reported.FAILED])

    async def _records(self) -> list[Record]:
        """Every request of the last days, the oldest first; again where our clock named the wrong days."""
        days = self._days()
        records = await self._pages(days)
        if self._days() != days:
            records = await self._pages(self._days())
        return sorted(records.values(), key=lambda record: record.created_at or 0.0)

    async def _pages(self, days: tuple[str, str]) -> dict[str, Record]:
        """By request_id, since there is one entry an output."""
        records: dict[str, Record] = {}
        for page in range(1, MOST_PAGES + 1):
            before = len(records)
            for record in await self._page(days, page):
                records.setdefault(record.request_id, record)
            if len(records) == before:
                return records
        raise explain.history_unread(f"it goes on after {MOST_PAGES} pages")

    async def _page(self, days: tuple[str, str], page: int) -> tuple[Record, ...]:
        deadline, host = self._retrier.clock.monotonic() + ASK_S, self._client.hosts.account
        look = functools.partial(self._client.history, *days, page)
        answer = await self._retrier.ask(look, Priority.RESULT, host, deadline)
        if not isinstance(answer, tuple):
            why = f"{answer.status}: {answer.words}" if isinstance(answer, Rejection) else answer.why
            raise explain.history_unread(why)
        records, self._skew_s = answer
        return records

    def _days(self) -> tuple[str, str]:
        """By the server's clock, with a day to either side."""
        today = self._retrier.clock.wall() + self._skew_s
        return day(today - KEEPS_S - DAY_S), day(today + DAY_S)

    def _row(self, record: Record) -> tuple[Row, str]:
        """A row, and the digest of its exact body."""
        inputs, now = record.inputs, self._retrier.clock.wall()
        sent_at = record.created_at - self._skew_s if record.created_at else now
        fingerprint, recognised_by = adopted(record.request_id), UNREADABLE
        if inputs:
            fingerprint = fingerprint_of({"negative_prompt": "", **inputs}, [], self._client.hosts.api)
            recognised_by = outline(inputs) if inputs.get("image_urls") else record.body_digest
        row = Row(
            id=0,
            fingerprint=fingerprint,
            attempt=1,
            state=State.COMPLETED if record.url else State.ACCEPTED,
            prompt_start=str(inputs.get("prompt", ""))[:PROMPT_START],
            seed=_seed(inputs),
            body_digest=recognised_by,
            request_id=record.request_id,
            url=record.url,
            note=FOUND,
            cost_usd=record.cost_usd if record.url else None,
            created_at=sent_at,
            submitted_at=sent_at,
        )
        return row, record.body_digest


def _seed(inputs: dict[str, Any]) -> int | None:
    seed = inputs.get("seed")
    return seed if isinstance(seed, int) and 0 <= seed <= MAX_SEED else None
