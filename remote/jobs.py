"""The state machine of a paid job: the money rules can be verified from this file and the journal's states.

`_drive` reads the row and does the one step its state allows, until the row is final:

    PLANNED     _submit         the only place that sends a paid request, once per SUBMITTING row
    UNKNOWN     Reconciler.find looks for the job in the account's history; never sends
    ACCEPTED    Follower.poll   GETs only
    COMPLETED   Follower.keep   GETs only

(a) SUBMITTING is on disk before the first byte, request_id before anything else happens: `_submit`.
(b) A submit whose outcome is unknown is never sent again: UNKNOWN leads to ACCEPTED, or to what `recover` made of it.
(c) The same inputs find the same row, whatever happened to the process: `Journal.claim`.
(d) One row has one driver, here (`_driven`) and across processes (`Journal.take`); all others wait for it.
(e) Jobs of a batch know nothing of each other: `batch`.
(f) The cap is reserved in the same transaction as SUBMITTING and settled with the real cost.
(g) Whoever stops waiting leaves the driver alone once it has sent: `_leave`.
(h) What a lost journal no longer knows is not sent again: `CatchUp` and `History`, before and in `_submit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from . import explain
from .catch_up import CatchUp
from .client import Client
from .drive import Drive, GoneError
from .errors import NOTHING_SENT, SegmindError, SpendCapReached
from .follower import Follower
from .governor import Governor, Priority
from .history import History
from .job_files import JobFiles
from .journal import Journal, OverspendError
from .protocol import Accepted, Credits, Metrics, NotSent, Rejection, Retry, Unknown
from .reconcile import Reconciler
from .request import body_digest, encode_body
from .retry import Retrier, backoff
from .rows import Row, State
from .uploads import Uploads
from .values import LONGEST_WAIT_S, UPLOADING, Order, Progress, Terms
from .vault import Vault

NOT_SENT_TRIES = 6
WRITE_AGAIN_S = (0.1, 1.0, 5.0, 20.0)  # pauses; sqlite itself waits for a lock before each
FOLLOW_S = LONGEST_WAIT_S
JOIN_S = 0.25  # how late a job that another process drives is seen to end; a look is one read of the journal
TELL_S = 0.5  # how old the progress that a waiter hears may be
CLOSE_AGAIN_S = 0.2  # how late a cancellation that was lost is made good


class Jobs:
    """All jobs of one journal in this process. Belongs to one event loop.

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
        *,
        governor: Governor | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client, self._journal, self._vault, self._files = client, journal, vault, files
        self._governor, self._rng = governor or Governor(), rng or Random()
        self._clock, self._retrier = self._governor.clock, Retrier(self._governor, self._rng)
        self._follower = Follower(client, journal, vault, files, check, self._retrier, self._rng)
        self._reconciler = Reconciler(client, journal, self._retrier, self._follower.age)
        self._catch_up, self._history = CatchUp(journal, files, vault), History(client, journal, self._retrier)
        self._uploads = Uploads(client, journal, self._retrier)
        self._driven: dict[int, Drive] = {}
        self._closing = False

    @property
    def busy(self) -> bool:
        return bool(self._driven)

    async def close(self) -> None:
        """Stops everything at once; the journal knows how to go on."""
        self._closing = True
        tasks = {drive.task for drive in self._driven.values()}
        while tasks:  # a cancellation may be lost, see Drive
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CLOSE_AGAIN_S)

    async def batch(
        self, orders: Sequence[Order], terms: Terms, tell: Callable[[int, Progress], None] = lambda i, p: None
    ) -> list[Row | SegmindError]:
        """One outcome per order, in order. No outcome affects another; cancelling stops the waiting only."""

        async def one(index: int, order: Order) -> Row | SegmindError:
            try:
                return await self.obtain(order, terms, lambda progress: tell(index, progress))
            except SegmindError as error:
                return error
            except (sqlite3.Error, OSError) as error:
                return explain.disk_failed(error, NOTHING_SENT)
            except Exception as error:
                return explain.not_understood(error)

        return list(await asyncio.gather(*(one(i, order) for i, order in enumerate(orders))))

    async def obtain(self, order: Order, terms: Terms, tell: Callable[[Progress], None] = lambda p: None) -> Row:
        """The KEPT row of this order's picture: an earlier one, one in flight, or a new one.

        Raises:
            SegmindError: there will be none, or not before the deadline.
        """
        fingerprint = order.fingerprint(self._client.hosts.api)
        deadline = self._clock.monotonic() + terms.timeout_s
        while not self._closing:
            row = self._journal.claim(
                fingerprint, prompt=order.request.prompt, seed=order.request.seed, new=terms.always_new
            )
            try:
                return await self._await(row, order, terms, deadline, tell)
            except GoneError:
                continue
        raise explain.interrupted([], 0)

    async def recover(self, request_id: str, terms: Terms, tell: Callable[[Progress], None]) -> Row:
        """The KEPT row of a job that is known by its request_id, from this machine or another."""
        deadline = self._clock.monotonic() + terms.timeout_s
        while not self._closing:
            row = self._journal.adopt(request_id)
            try:
                return await self._await(row, None, terms, deadline, tell)
            except GoneError:
                continue  # it has become one with the row of its inputs
        raise explain.interrupted([], 0)

    async def credits(self, timeout_s: float) -> Credits | Retry | Rejection:
        """The account's balance."""
        deadline, host = self._clock.monotonic() + timeout_s, self._client.hosts.api
        return await self._retrier.ask(self._client.credits, Priority.STATUS, host, deadline)

    # Waiting

    async def _await(
        self, row: Row, order: Order | None, terms: Terms, deadline: float, tell: Callable[[Progress], None]
    ) -> Row:
        """Waits for the row's one driver, until the deadline or the caller's cancellation."""
        kept = row.state == State.KEPT and await asyncio.to_thread(self._vault.get, row.sha256) is not None
        if row.state == State.KEPT and not kept:
            self._journal.lost_bytes(row.id)
        elif kept:
            tell(self._progress(row, None, terms, deadline, reused=True))
            return row
        reused = row.state != State.PLANNED
        drive = self._driven.get(row.id)
        if drive is None or drive.task.done():  # one that was cancelled before its first step is still there
            drive = self._start(row, order, terms)
        drive.waiters += 1
        try:
            while not drive.task.done():
                now = self._journal.row(row.id) or row
                tell(self._progress(now, drive, terms, deadline, reused=reused))
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise self._too_late(now, terms)
                await self._first_of(drive.task, min(left, TELL_S))
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error, row, drive) from None
        finally:
            self._leave(drive, terms)
        return self._outcome(drive, terms)

    async def _first_of(self, task: asyncio.Task[Row], seconds: float) -> None:
        """Returns when the task is done or the time is over; the task goes on."""
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({task, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()

    def _leave(self, drive: Drive, terms: Terms) -> None:
        """An unsent job goes with its last waiter, and with the run whose cap it has; a sent one is followed."""
        drive.waiters -= 1
        unwanted = not drive.waiters or drive.terms.budget == terms.budget
        if unwanted and not drive.sent:  # whoever waits on claims again, under their own cap
            drive.cancel()

    def _outcome(self, drive: Drive, terms: Terms) -> Row:
        if drive.task.cancelled():
            raise GoneError
        error = drive.task.exception()
        if isinstance(error, SpendCapReached) and drive.terms.budget != terms.budget:
            raise GoneError  # another run's cap, not ours
        if error:
            raise error
        return drive.task.result()

    def _too_late(self, row: Row, terms: Terms) -> SegmindError:
        if row.state == State.PLANNED:
            return explain.too_late_to_send(terms.timeout_s)
        if row.state == State.UNKNOWN:
            return explain.outcome_unknown(row)
        return explain.still_running(row, terms.timeout_s)

    def _progress(
        self, row: Row, drive: Drive | None, terms: Terms, deadline: float, *, reused: bool = False
    ) -> Progress:
        waited = terms.timeout_s - (deadline - self._clock.monotonic())
        known = Metrics(row.cost_usd, row.remaining_usd, row.queue_s, row.inference_s)
        seen = drive.state if drive and row.state in (State.PLANNED, State.ACCEPTED) else ""
        state, estimate = seen or row.state, row.reserved_usd or self._journal.estimate_usd()
        expected = self._follower.durations.expected_s
        return Progress(row.id, state, waited, expected, row.request_id, known, reused, estimate)

    # Driving

    def _start(self, row: Row, order: Order | None, terms: Terms) -> Drive:
        drive = Drive(terms, task=None)  # type: ignore[arg-type]
        drive.task = asyncio.ensure_future(self._drive(row, order, drive))
        drive.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._driven[row.id] = drive
        return drive

    async def _drive(self, claimed: Row, order: Order | None, drive: Drive) -> Row:
        """One step after another until the row is final. Cancelled before anything was sent, or at exit."""
        id, deadline, row = claimed.id, self._clock.monotonic() + FOLLOW_S, None
        try:
            async with self._governor.job():
                while self._clock.monotonic() < deadline:
                    row = self._journal.take(id)
                    if row is None or row.fingerprint != claimed.fingerprint:
                        raise GoneError
                    ending = explain.no_picture_because(row)
                    if ending:
                        raise ending
                    if row.state == State.KEPT:
                        return row
                    drive.sent = row.state != State.PLANNED
                    await self._step(row, order, drive, deadline)
            row = self._journal.row(id)
            raise explain.still_running(row, FOLLOW_S) if row else GoneError
        except SegmindError as error:
            error.request_id = error.request_id or (row.request_id if row else None)
            raise
        except (sqlite3.Error, OSError) as error:
            raise self._trouble(error, row or claimed, drive) from None
        finally:
            self._driven.pop(id, None)
            with contextlib.suppress(sqlite3.Error):  # the disk's trouble must not hide what the job came to
                self._journal.discard(id)
                self._journal.release(id)

    async def _step(self, row: Row, order: Order | None, drive: Drive, deadline: float) -> None:
        if row.owner != self._journal.owner:
            await self._clock.sleep(JOIN_S)
        elif await self._catch_up.further(row):
            return
        elif row.state == State.PLANNED and order:
            await self._submit(row, order, drive)
        elif row.state == State.UNKNOWN:
            await self._reconciler.find(row)
        elif row.state == State.ACCEPTED:
            await self._follower.poll(row, drive.saw, deadline)
        elif row.state == State.COMPLETED:
            await self._follower.keep(row, deadline)
        else:
            raise GoneError

    async def _submit(self, row: Row, order: Order, drive: Drive) -> None:
        """PLANNED to whatever the server says. Sends again only after proof that nothing was accepted."""
        if not drive.terms.always_new and await self._history.look_back(order):
            raise GoneError  # claim again: it may have come back
        drive.state = UPLOADING if order.references else ""
        body = order.request.body([await self._uploads.address(reference) for reference in order.references])
        drive.state = ""
        unreached = 0
        for tries in itertools.count():
            proof = await self._send(row, encode_body(body), body_digest(body), drive)
            if proof is None:
                return
            if not drive.waiters:
                raise asyncio.CancelledError
            unreached += isinstance(proof, NotSent)
            if isinstance(proof, NotSent) and unreached >= NOT_SENT_TRIES:
                raise explain.unreachable(proof.why)
            hint = proof.hint_s if isinstance(proof, Rejection) else None
            await self._clock.sleep(backoff(tries, hint, self._rng))

    async def _send(self, row: Row, wire: bytes, digest: str, drive: Drive) -> NotSent | Rejection | None:
        """One paid request, on disk before it leaves and again before anything else happens.

        Returns proof that it was not accepted and may be sent again, or None when the row says how to go on.
        """
        async with self._governor.turn(Priority.SUBMIT, host=self._client.hosts.api) as turn:
            drive.stop_if_cancelled()
            drive.sent = True
            sent = self._reserve(row, digest, drive)
            if sent is None:
                return None
            if not self._begin(sent, drive):
                await self._catch_up.sent_before(sent)
                return None
            answer = await self._client.submit(wire)
            if isinstance(answer, Accepted):
                await self._accepted(sent, answer.request_id)
            elif isinstance(answer, Unknown):
                self._journal.unknown(row.id, answer.why)
            elif isinstance(answer, Rejection) and not answer.throttled:
                refusal = explain.rejected(answer)
                self._journal.rejected(row.id, refusal.what)
                self._files.drop(row)
                raise refusal
            else:
                drive.sent = False
                self._files.drop(row)
                self._journal.not_sent(row.id)
                turn.unreachable() if isinstance(answer, NotSent) else turn.limited(answer.hint_s)
                return answer
            return None

    async def _accepted(self, row: Row, request_id: str) -> None:
        """The one write that must not be lost: tried again, and if all fail the error names the job."""
        with contextlib.suppress(OSError):
            self._files.update(replace(row, request_id=request_id))
        for pause in (*WRITE_AGAIN_S, None):
            try:
                return self._journal.accepted(row.id, request_id)
            except sqlite3.Error as error:
                if pause is None:
                    raise explain.disk_failed(error, explain.SENT, request_id) from None
                await self._clock.sleep(pause)

    def _reserve(self, row: Row, digest: str, drive: Drive) -> Row | None:
        """Puts SUBMITTING and the reservation on disk; None when the row is no longer ours to send."""
        estimate, terms = self._journal.estimate_usd, drive.terms
        try:
            ours = self._journal.submitting(
                row.id, digest, budget=terms.budget, cap_usd=terms.cap_usd, estimate_usd=estimate()
            )
            return self._journal.row(row.id) if ours else None
        except OverspendError as error:
            raise explain.over_cap(error) from None
        except sqlite3.Error:
            drive.sent = False
            raise

    def _begin(self, row: Row, drive: Drive) -> bool:
        """Makes the job's file; False when there is one, so that this attempt has been sent already."""
        try:
            return self._files.begin(row)
        except OSError:
            drive.sent = False
            self._journal.not_sent(row.id)
            raise

    def _trouble(self, error: Exception, row: Row, drive: Drive) -> SegmindError:
        """What the disk's trouble means for the money of a job."""
        with contextlib.suppress(sqlite3.Error):
            row = self._journal.row(row.id) or row
        return explain.disk_failed(error, explain.money_of(row, drive.sent), row.request_id)
