"""What the nodes call: the whole remote lane behind a few functions.

    run(requests, images, ...)   pictures for requests, from any event loop; the work is done on another
    recover(request_id, ...)     one picture by its request_id
    list_jobs(directory)         the journal, newest first
    balance(...)                 dollars left

A lane is one account on one folder. Lanes live on the worker's thread for as long as the process does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import explain, images
from .client import Client, Timeouts
from .clock import Clock
from .errors import NOTHING_SENT, BadInput, SegmindError
from .governor import Governor
from .images import Decoded, Encoded
from .jobs import Jobs
from .journal import LEASE_S, Journal, Row
from .keys import Hosts, Key, refuse_secrets
from .orders import Order, Progress, Terms
from .protocol import Credits, Rejection, Retry
from .request import KleinRequest
from .vault import Vault
from .worker import Worker

JOURNAL_FILE, VAULT_FOLDER = "jobs.sqlite", "results"
WATCH_S = 0.1
STANDING_S, STANDING_STEP_S = 0.14, 0.01
RUNS_ON = ("SUBMITTING", "UNKNOWN", "ACCEPTED", "COMPLETED")
BALANCE_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run goes, as the node's widgets have it.

    Args:
        timeout_s: when to stop waiting, 1 to 3300.
        on_item_error: "raise" the first error once all jobs have ended, or "skip" what failed.
        max_cost_usd: what this run may spend; 0 for no limit.
        reuse: "auto", or "always_new" to pay for another picture of inputs that have one already.
    """

    timeout_s: float = 900.0
    on_item_error: str = "raise"
    max_cost_usd: float = 0.0
    reuse: str = "auto"

    def __post_init__(self) -> None:
        good = self.on_item_error in ("raise", "skip") and self.reuse in ("auto", "always_new")
        if not good or not 1 <= self.timeout_s <= 3300 or not 0 <= self.max_cost_usd < float("inf"):
            raise BadInput(f"These options are not possible: {self}", NOTHING_SENT, "Correct them")

    def terms(self) -> Terms:
        cap = self.max_cost_usd or None
        return Terms(self.timeout_s, self.reuse == "always_new", uuid.uuid4().hex, cap)


@dataclass(frozen=True)
class Picture:
    """A finished job. `receipt` is plain JSON: request_id, seed, costs, seconds, sha256; never a key."""

    decoded: Decoded
    receipt: dict[str, Any]


@dataclass
class _Run:
    """What the caller's thread may know of a run.

    Args:
        left: its jobs have been told that nobody waits.
        uploads: what was changed on the images before they left.
    """

    progress: list[Progress | None]
    left: bool = False
    uploads: tuple[str, ...] = ()

    def jobs(self) -> list[int]:
        return [item.job for item in self.progress if item]


async def run(
    requests: Sequence[KleinRequest],
    arrays: Sequence[npt.NDArray[np.float32]] = (),
    *,
    directory: Path,
    key: Key,
    hosts: Hosts,
    options: Options | None = None,
    on_progress: Callable[[list[Progress | None]], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    on_skip: Callable[[int, SegmindError], None] = lambda index, error: None,
) -> list[Picture]:
    """One picture per request, in order; what failed is left out where `options` say so.

    Args:
        arrays: images to upload, in order, for every request; [height, width, 3 or 4] floats.
        on_progress: hears, on this thread, about every job; None for one that has not begun.
        cancelled: asked ten times a second.
        on_skip: hears of every request that is left out, by its place.

    Raises:
        Interrupted: `cancelled` said so. Jobs that were accepted go on and are kept.
        SegmindError: the first failure, or the only ones.
    """
    for request in requests:
        refuse_secrets(request.texts())
    lane = _lane(directory, key, hosts)
    return await lane.run(requests, arrays, options or Options(), on_progress, cancelled, on_skip)


async def recover(
    request_id: str, *, directory: Path, key: Key, hosts: Hosts, options: Options | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Picture:  # fmt: skip
    """The picture of a job from this machine or another, by its request_id; costs nothing.

    Raises:
        SegmindError: it failed, is lost, or has not ended before the deadline.
    """
    lane = _lane(directory, key, hosts)
    return await lane.recover(request_id, options or Options(), cancelled)


async def balance(*, directory: Path, key: Key, hosts: Hosts) -> Credits:
    """Dollars left on the account; the cheapest way to learn whether a key works."""
    return await _lane(directory, key, hosts).balance()


def list_jobs(directory: Path, limit: int = 100) -> list[Row]:
    """The journal, newest first. Needs no key and no network."""
    with contextlib.closing(_journal(directory)) as journal:
        return journal.rows(limit)


class Lane:
    """One account on one folder.

    Args:
        governor: makes the rate limit, on the worker's thread.
    """

    def __init__(
        self,
        directory: Path,
        key: Key,
        hosts: Hosts,
        *,
        worker: Worker | None = None,
        governor: Callable[[], Governor] = Governor,
        timeouts: Timeouts | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._directory, self._key, self._hosts, self._timeouts = directory, key, hosts, timeouts
        self._worker, self._governor, self._lease_s = worker or _WORKER, governor, lease_s
        self._opened: tuple[Jobs, Client, Journal, Vault] | None = None
        self._beating: asyncio.Task[None] | None = None

    async def run(
        self,
        requests: Sequence[KleinRequest],
        arrays: Sequence[npt.NDArray[np.float32]],
        options: Options,
        on_progress: Callable[[list[Progress | None]], None] = lambda progress: None,
        cancelled: Callable[[], bool] = lambda: False,
        on_skip: Callable[[int, SegmindError], None] = lambda index, error: None,
    ) -> list[Picture]:
        """See the function of the same name."""
        going = _Run([None] * len(requests))
        work = self._worker.submit(self._batch(requests, arrays, options, going))
        outcomes = await self._watch(work, going, on_progress, cancelled)
        pictures = [
            _picture(*item, reused=bool(seen and seen.reused), uploads=going.uploads)
            for item, seen in zip(outcomes, going.progress)
            if not isinstance(item, SegmindError)
        ]
        errors = [item for item in outcomes if isinstance(item, SegmindError)]
        if errors and (options.on_item_error == "raise" or not pictures):
            raise errors[0].among(len(pictures), len(outcomes))
        for index, item in enumerate(outcomes):
            if isinstance(item, SegmindError):
                on_skip(index, item)
        return pictures

    async def recover(
        self, request_id: str, options: Options, cancelled: Callable[[], bool] = lambda: False
    ) -> Picture:
        going = _Run([None])
        work = self._worker.submit(self._recover(request_id, options, going))
        return _picture(*await self._watch(work, going, cancelled=cancelled), reused=True)

    async def balance(self) -> Credits:
        answer = await self._watch(self._worker.submit(self._balance()), _Run([]))
        if isinstance(answer, Retry):
            raise explain.unreachable(answer.why)
        if isinstance(answer, Rejection):
            raise explain.rejected(answer)
        return answer

    async def close(self) -> None:
        """Stops following jobs; the journal knows them. A lane otherwise lives as long as the process."""
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
        until = time.monotonic() + STANDING_S
        while time.monotonic() < until:
            if asked.done():
                return explain.interrupted(*asked.result())
            await asyncio.sleep(STANDING_STEP_S)
        return explain.interrupted([], len(going.jobs()))

    # On the worker's thread

    def _open(self) -> tuple[Jobs, Client, Journal, Vault]:
        if self._opened is None:
            governor = self._governor()
            journal = _journal(self._directory, self._lease_s, governor.clock.wall)
            vault = Vault(self._directory / VAULT_FOLDER)
            client = Client(self._hosts, self._key, timeouts=self._timeouts, wall=governor.clock.wall)
            jobs = Jobs(client, journal, vault, images.decode, governor=governor)
            self._opened = jobs, client, journal, vault
            self._beating = asyncio.ensure_future(_beat(jobs, journal, governor.clock, self._lease_s / 4))
        return self._opened

    async def _batch(
        self,
        requests: Sequence[KleinRequest],
        arrays: Sequence[npt.NDArray[np.float32]],
        options: Options,
        going: _Run,
    ) -> list[tuple[Row, Decoded] | SegmindError]:
        jobs, *_ = self._open()
        references = tuple([await _encoded(array, place) for place, array in enumerate(arrays, 1)])
        going.uploads = tuple(f"image {i}: {one.note}" for i, one in enumerate(references, 1) if one.note)
        orders = [Order(request, references) for request in requests]
        try:
            rows = await jobs.batch(orders, options.terms(), going.progress.__setitem__)
        finally:
            going.left = True
        return [row if isinstance(row, SegmindError) else await self._decoded(row) for row in rows]

    async def _recover(self, request_id: str, options: Options, going: _Run) -> tuple[Row, Decoded]:
        jobs, *_ = self._open()
        try:
            tell = functools.partial(going.progress.__setitem__, 0)
            row = await jobs.recover(request_id, options.terms(), tell)
        finally:
            going.left = True
        picture = await self._decoded(row)
        if isinstance(picture, SegmindError):
            raise picture
        return picture

    async def _decoded(self, row: Row) -> tuple[Row, Decoded] | SegmindError:
        *_, vault = self._open()
        data = await asyncio.to_thread(vault.get, row.sha256)
        try:
            return (row, await asyncio.to_thread(images.decode, data)) if data else explain.lost(row)
        except SegmindError as error:
            return error

    async def _balance(self) -> Credits | Retry | Rejection:
        jobs, *_ = self._open()
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
            self._beating.cancel()
            await jobs.close()
            await client.aclose()
            journal.close()
        self._opened = None


_WORKER = Worker()
_LANES: dict[tuple[Path, Key, Hosts], Lane] = {}
_LOCK = threading.Lock()


def _lane(directory: Path, key: Key, hosts: Hosts) -> Lane:
    with _LOCK:
        return _LANES.setdefault((directory, key, hosts), Lane(directory, key, hosts))


def _journal(directory: Path, lease_s: float = LEASE_S, now: Callable[[], float] = time.time) -> Journal:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Journal(directory / JOURNAL_FILE, lease_s=lease_s, now=now)


async def _beat(jobs: Jobs, journal: Journal, clock: Clock, every_s: float) -> None:
    while True:
        await clock.sleep(every_s)
        if jobs.busy:
            journal.beat()


async def _encoded(array: npt.NDArray[np.float32], place: int) -> Encoded:
    """The file to upload; a refusal names which of the images it is about, counted from 1."""
    try:
        return await asyncio.to_thread(images.encode, array)
    except BadInput as error:
        raise BadInput(f"Image {place}: {error.what}", error.money, error.todo) from None


def _picture(row: Row, decoded: Decoded, reused: bool, uploads: tuple[str, ...] = ()) -> Picture:
    receipt = {
        "request_id": row.request_id,
        "seed": row.seed,
        "cost_usd": row.cost_usd,
        "remaining_usd": row.remaining_usd,
        "queue_seconds": row.queue_s,
        "inference_seconds": row.inference_s,
        "sha256": row.sha256,
        "width": decoded.width,
        "height": decoded.height,
        "media_type": decoded.media_type,
        "reused": reused,
        "note": decoded.note,
        "uploads": list(uploads),
    }
    return Picture(decoded, receipt)
