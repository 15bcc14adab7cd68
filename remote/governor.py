"""One account, one rate limit: every request and every job of the process takes its turn here."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

from .clock import Clock, SystemClock

SUBMIT_SHARE = 5  # of any five turns given while a submit waits, one is a submit
SLOWEST_PER_MINUTE = 1.0  # however often it is refused, a job is looked at
BREAKER_FAILURES = 5
BREAKER_PROBE_S = 5.0  # how late it is noticed that a host is back
SHORTEST_SLEEP_S = 0.001  # rounding must not turn the last nanosecond of a wait into a spin


class Priority(enum.IntEnum):
    """Who goes first: a finished job's result, then a new job, then a look at a running one."""

    RESULT = 0
    SUBMIT = 1
    STATUS = 2


class Turn:
    """One request's leave to go, and where its caller says how that went.

    Leaving it counts as having reached the host, unless it was told `unreachable` or is left by one of
    httpx's connect errors. Leaving by cancellation says nothing about the host.
    """

    def __init__(self, priority: Priority, host: str, order: int) -> None:
        self.priority, self.host, self.order = priority, host, order
        self.granted: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.refused = False
        self.hint_s: float | None = None
        self.connected: bool | None = True

    def limited(self, hint_s: float | None) -> None:
        """The server answered 429.

        Args:
            hint_s: what `retry.retry_hint` read from that reply.
        """
        self.refused, self.hint_s = True, hint_s

    def unreachable(self) -> None:
        """No connection could be made."""
        self.connected = False


@dataclass
class _Breaker:
    """Whether a host is worth a request: after failures in a row, only one probe at a time, far apart."""

    failures: int = 0
    next_probe: float = 0.0

    def opens_at(self) -> float:
        return self.next_probe if self.failures >= BREAKER_FAILURES else 0.0

    def probing(self) -> None:
        self.next_probe = float("inf")

    def reached(self) -> None:
        self.failures = 0

    def failed(self, now: float) -> None:
        self.failures += 1
        self.postpone(now)

    def postpone(self, now: float) -> None:
        self.next_probe = now + BREAKER_PROBE_S


class Governor:
    """Rate, order and number of an account's requests.

    A token bucket gives turns by priority, first come first served within one. 429 halves the rate, which
    then grows back by a tenth of `per_minute` each minute. Belongs to one event loop and uses no threads.

    Args:
        per_minute: requests a minute, at best.
        burst: requests that may go at once after a quiet time.
        in_flight: jobs that may be submitted and unfinished at once.
        clock: where time comes from.
    """

    def __init__(
        self, *, per_minute: float = 50.0, burst: int = 10, in_flight: int = 8, clock: Clock | None = None
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.rate = self.ceiling = per_minute
        self._burst = float(burst)
        self._tokens, self._filled_at = float(burst), self.clock.monotonic()
        self._blocked_until = self._cut_at = float("-inf")
        self._waiting: list[Turn] = []
        self._order = itertools.count()
        self._others_since_submit = 0
        self._breakers: dict[str, _Breaker] = {}
        self._alarm: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(in_flight)

    @contextlib.asynccontextmanager
    async def job(self) -> AsyncIterator[None]:
        """Holds one of the in-flight places, from before the submit until the job has ended."""
        async with self._slots:
            yield

    @contextlib.asynccontextmanager
    async def turn(self, priority: Priority, *, host: str = "") -> AsyncIterator[Turn]:
        """Waits for leave to send one request.

        Args:
            priority: see `Priority`.
            host: whose connect failures this request shares.
        """
        turn = Turn(priority, host, next(self._order))
        await self._admit(turn)
        try:
            yield turn
        except (httpx.ConnectError, httpx.ConnectTimeout):
            turn.unreachable()
            raise
        except (asyncio.CancelledError, httpx.PoolTimeout):
            turn.connected = None
            raise
        finally:
            self._settle(turn)

    async def _admit(self, turn: Turn) -> None:
        self._waiting.append(turn)
        self._pump()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._tokens += 1.0
                self._breaker(turn).postpone(self.clock.monotonic())
            self._pump()
            raise

    def _settle(self, turn: Turn) -> None:
        now, breaker = self.clock.monotonic(), self._breaker(turn)
        if turn.connected is None:
            breaker.postpone(now)
        elif turn.connected:
            breaker.reached()
        else:
            breaker.failed(now)
        if turn.refused:
            self._slow_down(turn, now)
        self._pump()

    def _slow_down(self, turn: Turn, now: float) -> None:
        """Halves the rate once for all the requests that were under way together."""
        self._refill(now)
        if turn.granted.result() > self._cut_at:
            self.rate, self._cut_at = max(SLOWEST_PER_MINUTE, self.rate / 2), now
        self._tokens = min(self._tokens, 0.0)
        self._blocked_until = max(self._blocked_until, now + (turn.hint_s or 0.0))

    def _pump(self) -> None:
        """Gives all the turns that can be given now and sets the alarm for the next."""
        now = self.clock.monotonic()
        self._refill(now)
        while self._ready_at(now) <= now and (turn := self._first(now)):
            self._grant(turn, now)
        self._set_alarm(now)

    def _grant(self, turn: Turn, now: float) -> None:
        self._waiting.remove(turn)
        self._tokens -= 1.0
        self._others_since_submit = 0 if turn.priority is Priority.SUBMIT else self._others_since_submit + 1
        if self._breaker(turn).opens_at():
            self._breaker(turn).probing()
        turn.granted.set_result(now)

    def _first(self, now: float) -> Turn | None:
        able = [t for t in self._waiting if self._breaker(t).opens_at() <= now and not t.granted.done()]
        submits = [turn for turn in able if turn.priority is Priority.SUBMIT]
        due = submits if self._others_since_submit >= SUBMIT_SHARE - 1 else []
        return min(due or able, key=lambda turn: (turn.priority, turn.order), default=None)

    def _refill(self, now: float) -> None:
        passed, self._filled_at = now - self._filled_at, now
        self._tokens = min(self._burst, self._tokens + passed * self.rate / 60.0)
        self.rate = min(self.ceiling, self.rate + passed * self.ceiling / 600.0)

    def _ready_at(self, now: float) -> float:
        return max(self._blocked_until, now + max(0.0, 1.0 - self._tokens) * 60.0 / self.rate)

    def _set_alarm(self, now: float) -> None:
        if self._alarm:
            self._alarm.cancel()
        opening = min((self._breaker(turn).opens_at() for turn in self._waiting), default=float("inf"))
        at = max(self._ready_at(now), opening)
        self._alarm = asyncio.create_task(self._wake(at - now)) if at < float("inf") else None

    async def _wake(self, delay_s: float) -> None:
        await self.clock.sleep(max(delay_s, SHORTEST_SLEEP_S))
        self._alarm = None
        self._pump()

    def _breaker(self, turn: Turn) -> _Breaker:
        return self._breakers.setdefault(turn.host, _Breaker())
