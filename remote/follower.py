"""From an accepted job to its bytes in the vault. GETs only: nothing here can cost money."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import TypeVar

from . import explain
from .cadence import Cadence, Durations
from .client import Client
from .errors import DownloadRefused
from .governor import Priority
from .job_files import JobFiles
from .journal import Journal
from .media_types import media_type_of
from .protocol import KEEPS_S, Metrics, Record, Rejection, Reported, Result, Retry, Status
from .retry import Retrier
from .rows import Row
from .vault import Vault

LAG_S, LAG_TRIES = 10.0, 5  # a replica that has not heard of a job does within these
RECORD_S = 3600.0  # Segmind answers for a job by its request_id for about an hour
RESULT_RETRY_S = 30.0  # a result lags behind the status that promised it; after this the record is asked
RESULT_PAUSE_S = 1.0  # between two looks for the same picture
DAMAGED_TRIES = 5
FINAL = (Reported.COMPLETED, Reported.FAILED)

T = TypeVar("T")


class Follower:
    """Follows accepted jobs.

    Args:
        check: raises DownloadRefused when bytes are not a picture that can be shown.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        vault: Vault,
        files: JobFiles,
        check: Callable[[bytes], object],
        retrier: Retrier,
        rng: Random,
    ) -> None:
        self._client, self._journal, self._check = client, journal, check
        self._vault, self._files = vault, files
        self._retrier, self._clock, self._rng = retrier, retrier.clock, rng
        self.durations = Durations(journal.durations_s())

    async def poll(self, row: Row, saw: Callable[[str], None], deadline: float) -> None:
        """ACCEPTED to COMPLETED, KEPT, FAILED or EXPIRED.

        Args:
            saw: hears each state the server reports.
            deadline: when to give up, monotonic seconds; the row then stays ACCEPTED.
        """
        request_id, missing = row.request_id or "", 0
        cadence, running_s = Cadence(self.durations, self._rng), 0.0
        while self._clock.monotonic() < deadline:
            await self._clock.sleep(cadence.wait(self.age(row)))
            asked_s = self.age(row)
            answer = await self._ask(lambda: self._client.status(request_id), Priority.STATUS, deadline)
            if isinstance(answer, Status):
                saw(answer.state)
                if answer.state == Reported.FAILED:
                    return self._failed(row, answer.error)
                if answer.state == Reported.COMPLETED:
                    seen_s = self.age(row)
                    await self._collect(row, deadline)
                    return self._learn(row, running_s, seen_s)
                running_s = asked_s
            elif isinstance(answer, Rejection) and answer.status == 404:
                missing += 1
                if self._is_gone(row, missing):
                    return await self._from_record(row, deadline)
            elif isinstance(answer, Rejection):
                raise explain.out_of_reach(row, f"{answer.status}: {answer.words}")

    def _learn(self, row: Row, running_s: float, seen_s: float) -> None:
        """How long it took, by its own account, which leaves the way there out: within when it ran and was seen done.

        A job that nobody looked at while it ran, such as one of an earlier run, says nothing without that account.
        """
        now = self._journal.row(row.id)
        told = now.duration_s if now else None
        if told is not None:
            self.durations.learn(min(max(told, running_s), seen_s))
        elif running_s:
            self.durations.learn((running_s + seen_s) / 2)

    async def keep(self, row: Row, deadline: float) -> None:
        """COMPLETED to KEPT: downloads the picture, again where it came damaged."""
        refused: DownloadRefused | None = None
        found: bytes | Retry | Rejection | None = None
        try:
            found = await self._intact(row, deadline)
        except DownloadRefused as error:
            refused = error
        if not isinstance(found, bytes):
            found = await self._elsewhere(row, deadline) or found
        if isinstance(found, bytes):
            return await self._store_bytes(row, found)
        if refused:
            refused.request_id = row.request_id
            raise refused
        if isinstance(found, Rejection) and self.age(row) > KEEPS_S:
            return self._journal.expired(row.id, "the file is gone")
        raise explain.out_of_reach(row, "its picture could not be fetched")

    def age(self, row: Row) -> float:
        """Seconds since the submit, by the wall clock, since a restart may lie between."""
        return max(0.0, self._clock.wall() - (row.submitted_at or row.created_at))

    def _is_gone(self, row: Row, missing: int) -> bool:
        """A 404 soon after the submit is a replica that has not heard of it; later the hour is over."""
        return missing > LAG_TRIES or self.age(row) > RECORD_S or (self.age(row) > LAG_S and missing > 1)

    async def _collect(self, row: Row, deadline: float) -> None:
        """Fetches the result of a job that is reported done; it may lag behind that report."""
        short_deadline = min(deadline, self._clock.monotonic() + RESULT_RETRY_S)
        while True:
            answer = await self._ask(lambda: self._client.result(row.request_id or ""), Priority.RESULT, short_deadline)
            if isinstance(answer, Result):
                self._settle(row, answer.metrics)
                if answer.source.url:
                    return self._journal.completed(row.id, answer.source.url)
                await asyncio.to_thread(self._check, answer.source.data)
                return await self._store_bytes(row, answer.source.data)
            if isinstance(answer, Status) and answer.state == Reported.FAILED:
                return self._failed(row, answer.error)
            if isinstance(answer, Rejection) and answer.status != 404:
                raise explain.out_of_reach(row, f"{answer.status}: {answer.words}")
            if isinstance(answer, Retry) or self._clock.monotonic() >= short_deadline:
                return await self._from_record(row, deadline)
            await self._clock.sleep(RESULT_PAUSE_S)

    async def _from_record(self, row: Row, deadline: float) -> None:
        """The second chance: the account's own record of the request, of any age."""
        short_deadline = min(deadline, self._clock.monotonic() + RESULT_RETRY_S)
        record = await self._record(row, short_deadline)
        if isinstance(record, Record):
            if record.url or record.state in FINAL:  # before that a cost of 0 means not charged yet
                self._settle(row, Metrics(cost_usd=record.cost_usd))
            if record.state == Reported.FAILED:
                return self._failed(row, record.error)
            if record.url:
                return self._journal.completed(row.id, record.url)
            if self.age(row) <= RECORD_S:
                return None  # the account knows it as unfinished: look again
        if isinstance(record, Rejection) and record.status == 404 and self.age(row) > KEEPS_S:
            return self._journal.expired(row.id, "the record is gone")
        raise explain.out_of_reach(row, _unread(record))

    async def _intact(self, row: Row, deadline: float) -> bytes | Retry | Rejection:
        """The picture, checked, or what its address answers instead."""
        for last in [False] * (DAMAGED_TRIES - 1) + [True]:
            data = await self._fetch(row.url, deadline)
            if not isinstance(data, bytes):
                return data
            try:
                await asyncio.to_thread(self._check, data)
                return data
            except DownloadRefused as refused:
                if last or not refused.retryable:
                    raise
            await self._clock.sleep(RESULT_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    async def _elsewhere(self, row: Row, deadline: float) -> bytes | Retry | Rejection | None:
        """The picture at the address that the account's record has, where that is another one."""
        record = await self._record(row, min(deadline, self._clock.monotonic() + RESULT_RETRY_S))
        if not isinstance(record, Record) or record.url in ("", row.url):
            return None
        self._journal.completed(row.id, record.url)
        moved = self._journal.row(row.id)
        return await self._intact(moved, deadline) if moved else None

    async def _fetch(self, url: str, deadline: float) -> bytes | Retry | Rejection:
        """The bytes at an address; it is on another host, which Segmind's rate limit does not cover."""
        return await self._retrier.persist(lambda: self._client.download(url), deadline)

    async def _store_bytes(self, row: Row, data: bytes) -> None:
        """The bytes, then what they are, then the row: where the row is lost, the file finds the picture."""
        kept = await asyncio.to_thread(self._vault.put, data, media_type_of(data))
        now = replace(self._journal.row(row.id) or row, sha256=kept.sha256)
        await asyncio.to_thread(self._files.update, now)
        self._journal.kept(row.id, kept.sha256)

    def _failed(self, row: Row, why: str) -> None:
        self._journal.failed(row.id, why or "no explanation")
        self._files.drop(row)

    async def _record(self, row: Row, deadline: float) -> Record | Retry | Rejection:
        call, host = (lambda: self._client.record(row.request_id or "")), self._client.hosts.account
        return await self._retrier.ask(call, Priority.RESULT, host, deadline)

    async def _ask(
        self, call: Callable[[], Awaitable[T | Retry | Rejection]], priority: Priority, deadline: float
    ) -> T | Retry | Rejection:
        return await self._retrier.ask(call, priority, self._client.hosts.api, deadline)

    def _settle(self, row: Row, metrics: Metrics) -> None:
        self._journal.settle(row.id, metrics.cost_usd, metrics.remaining_usd, metrics.queue_s, metrics.inference_s)


def _unread(record: Record | Retry | Rejection) -> str:
    if isinstance(record, Record):
        return f"the account's history says {record.state or 'nothing'} and has no picture"
    return record.why if isinstance(record, Retry) else f"{record.status}: {record.words}"
