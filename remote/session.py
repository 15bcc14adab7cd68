"""One account on one folder, for callers on any event loop: waits on the caller's, works on the worker's thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from . import explain, images
from .client import Client, Timeouts
from .clock import Clock
from .errors import NOTHING_SENT, BadInput, SegmindError
from .governor import Governor
from .images import Decoded, Encoded
from .job_files import JobFiles
from .jobs import Jobs
from .journal import LEASE_S, Journal
from .journal_check import damaged_because
from .journal_restore import FILES_FOLDER, JOURNAL_FILE, VAULT_FOLDER, open_journal
from .protocol import Credits, Rejection, Retry
from .request import KleinRequest
from .rows import RUNS_ON, Row
from .values import Account, Order, Picture, Progress, Terms
from .vault import Vault
from .worker import Worker

WATCH_S = 0.1  # how late Cancel is seen
STANDING_S, STANDING_STEP_S = 0.14, 0.01  # so that Cancel is answered within a quarter of a second in all
BALANCE_S = 30.0  # the list of jobs waits for it, and is worth having without

T = TypeVar("T")


@dataclass
class _Run:
    """What the caller's thread may know of a run.

    Attributes:
        left: its jobs have been told that nobody waits.
        uploads: what was changed on the images before they left.
        news: what befell the journal.
    """

    progress: list[Progress | None]
    left: bool = False
    uploads: tuple[str, ...] = ()
    news: tuple[str, ...] = ()

    def jobs(self) -> list[int]:
        return [item.job for item in self.progress if item]


class Session:
    """One account on one folder.

    Args:
        governor: makes the rate limit, on the worker's thread.
    """

    def __init__(
        self,
        account: Account,
        *,
        worker: Worker | None = None,
        governor: Callable[[], Governor] = Governor,
        timeouts: Timeouts | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._account, self._timeouts = account, timeouts
        self._worker, self._governor, self._lease_s = worker or _WORKER, governor, lease_s
        self._opened: tuple[Jobs, Client, Journal, Vault] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._gate, self._users, self._news = asyncio.Lock(), 0, list[str]()

    async def run(
        self,
        requests: Sequence[KleinRequest],
        arrays: Sequence[npt.NDArray[np.float32]],
        terms: Terms,
        on_progress: Callable[[list[Progress | None]], None] = lambda progress: None,
        cancelled: Callable[[], bool] = lambda: False,
        on_skip: Callable[[int, SegmindError], None] = lambda index, error: None,
    ) -> list[Picture]:
        """See `service.run`."""
        going = _Run([None] * len(requests))
        work = self._worker.submit(self._batch(requests, arrays, terms, going))
        outcomes = await self._watch(work, going, on_progress, cancelled)
        pictures = [
            Picture.of(*item, reused=bool(seen and seen.reused), uploads=going.uploads, news=going.news)
            for item, seen in zip(outcomes, going.progress)
            if not isinstance(item, SegmindError)
        ]
        errors = [item for item in outcomes if isinstance(item, SegmindError)]
        if errors and (terms.on_item_error == "raise" or not pictures):
            raise errors[0].among(len(pictures), len(outcomes))
        for index, item in enumerate(outcomes):
            if isinstance(item, SegmindError):
                on_skip(index, item)
        return pictures

    async def recover(self, request_id: str, terms: Terms, cancelled: Callable[[], bool] = lambda: False) -> Picture:
        going = _Run([None])
        work = self._worker.submit(self._recover(request_id, terms, going))
        return Picture.of(*await self._watch(work, going, cancelled=cancelled), reused=True)

    async def balance(self) -> Credits:
        answer = await self._watch(self._worker.submit(self._balance()), _Run([]))
        if isinstance(answer, Retry):
            raise explain.unreachable(answer.why)
        if isinstance(answer, Rejection):
            raise explain.rejected(answer)
        return answer

    async def close(self) -> None:
        """Stops following jobs; the journal knows them. A session otherwise lives as long as the process."""
        await self._watch(self._worker.submit(self._close()), _Run([]))

    async def _watch(
        self,
        work: concurrent.futures.Future[T],
        going: _Run,
        on_progress: Callable[[list[Progress | None]], None] = lambda progress: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> T:
        """Waits from the caller's loop without tying it to the worker's: either may end before the other.

        The future is only ever asked whether it is done. Awaiting it would hand this loop's cancellation to
        the worker and the worker's to the host, whose prompt thread does not survive one.
        """
        told: list[Progress | None] = []
        try:
            while not work.done() and not cancelled():
                if going.progress != told:
                    told = list(going.progress)
                    on_progress(told)
                await asyncio.sleep(WATCH_S)
        except BaseException:
            work.cancel()
            raise
        if work.cancelled():  # the program is ending
            raise explain.interrupted([], len(going.jobs()))
        if work.done():
            return work.result()
        work.cancel()
        raise await self._interrupted(going)

    async def _interrupted(self, going: _Run) -> SegmindError:
        """What becomes of the jobs, asked when nothing can be submitted any more so that it stays true."""
        asked = self._worker.submit(self._standing(going))
        deadline = time.monotonic() + STANDING_S
        while time.monotonic() < deadline:
            if asked.done() and not asked.exception():
                return explain.interrupted(*asked.result())
            await asyncio.sleep(STANDING_STEP_S)
        return explain.interrupted([], len(going.jobs()))

    # On the worker's thread

    @contextlib.asynccontextmanager
    async def _jobs(self) -> AsyncIterator[Jobs]:
        """The jobs of the folder for one run; opened anew when the journal was lost or damaged since the last."""
        async with self._gate:
            if self._opened and not self._users and not await asyncio.to_thread(self._is_whole, self._opened[2]):
                await self._close()
            jobs, *_ = self._open()
            self._users += 1
        try:
            yield jobs
        finally:
            self._users -= 1

    def _is_whole(self, journal: Journal) -> bool:
        try:
            return journal.is_in_place() and not damaged_because(self._account.directory / JOURNAL_FILE)
        except (SegmindError, sqlite3.Error, OSError):
            return False  # opening it says why

    def _open(self) -> tuple[Jobs, Client, Journal, Vault]:
        if self._opened is None:
            governor = self._governor()
            folder, clock, tell = self._account.directory, governor.clock, self._news.append
            journal = open_journal(folder, lease_s=self._lease_s, now=clock.wall, tell=tell)
            with explain.on_disk(NOTHING_SENT):
                vault, files = Vault(folder / VAULT_FOLDER), JobFiles(folder / FILES_FOLDER)
                client = Client(self._account.hosts, self._account.key, timeouts=self._timeouts, wall=clock.wall)
                jobs = Jobs(client, journal, vault, files, images.decode, governor=governor)
            self._opened = jobs, client, journal, vault
            self._beating = asyncio.ensure_future(_beat(jobs, journal, clock, self._lease_s / 4))
        return self._opened

    async def _batch(
        self,
        requests: Sequence[KleinRequest],
        arrays: Sequence[npt.NDArray[np.float32]],
        terms: Terms,
        going: _Run,
    ) -> list[tuple[Row, Decoded] | SegmindError]:
        async with self._jobs() as jobs:
            going.news, self._news = tuple(self._news), []
            references = tuple([await _encoded(array, place) for place, array in enumerate(arrays, 1)])
            going.uploads = tuple(f"image {i}: {one.note}" for i, one in enumerate(references, 1) if one.note)
            orders = [Order(request, references) for request in requests]
            try:
                rows = await jobs.batch(orders, terms, going.progress.__setitem__)
            finally:
                going.left = True
            return [row if isinstance(row, SegmindError) else await self._decoded(row) for row in rows]

    async def _recover(self, request_id: str, terms: Terms, going: _Run) -> tuple[Row, Decoded]:
        async with self._jobs() as jobs:
            try:
                tell = functools.partial(going.progress.__setitem__, 0)
                with explain.on_disk(NOTHING_SENT, request_id):
                    row = await jobs.recover(request_id, terms, tell)
            finally:
                going.left = True
            picture = await self._decoded(row)
        if isinstance(picture, SegmindError):
            raise picture
        return picture

    async def _decoded(self, row: Row) -> tuple[Row, Decoded] | SegmindError:
        *_, vault = self._open()
        try:
            with explain.on_disk(explain.PAID, row.request_id):
                data = await asyncio.to_thread(vault.get, row.sha256)
            return (row, await asyncio.to_thread(images.decode, data)) if data else explain.lost(row)
        except SegmindError as error:
            return error

    async def _balance(self) -> Credits | Retry | Rejection:
        async with self._jobs() as jobs:
            return await jobs.credits(BALANCE_S)

    async def _standing(self, going: _Run) -> tuple[list[str], int]:
        """The request_ids of the jobs that run on, and how many more may have been accepted."""
        while going.jobs() and not going.left:
            await asyncio.sleep(0)
        _, _, journal, _ = self._open()
        rows = [row for row in map(journal.row, going.jobs()) if row and row.state in RUNS_ON]
        known = [row.request_id for row in rows if row.request_id]
        return known, len(rows) - len(known)

    async def _close(self) -> None:
        if self._opened and self._beating:
            jobs, client, journal, _ = self._opened
            self._opened = None
            self._beating.cancel()
            await jobs.close()
            await client.aclose()
            with contextlib.suppress(sqlite3.Error):  # it knows as much as the disk let it
                journal.close()


_WORKER = Worker()


async def _beat(jobs: Jobs, journal: Journal, clock: Clock, every_s: float) -> None:
    while True:
        await clock.sleep(every_s)
        if jobs.busy:
            with contextlib.suppress(sqlite3.Error):  # the disk may be better the next time
                journal.beat()


async def _encoded(array: npt.NDArray[np.float32], place: int) -> Encoded:
    """The file to upload; a refusal names which of the images it is about, counted from 1."""
    try:
        return await asyncio.to_thread(images.encode, array)
    except BadInput as error:
        raise BadInput(f"Image {place}: {error.what}", error.money, error.todo) from None
