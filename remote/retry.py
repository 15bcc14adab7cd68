"""Questions that cost nothing, asked until they are answered: every GET, and uploads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from .cadence import backoff
from .governor import Governor, Priority
from .protocol import Rejection, Retry

REFUSED_ONCE_S = 2.0

T = TypeVar("T")


class Asker:
    """Takes turns at the governor, backs off, and asks again until a moment that the caller names."""

    def __init__(self, governor: Governor, rng: Random) -> None:
        self.clock, self._governor, self._rng = governor.clock, governor, rng

    async def ask(
        self,
        call: Callable[[], Awaitable[T | Retry | Rejection]],
        priority: Priority,
        host: str,
        until: float,
    ) -> T | Retry | Rejection:
        """The answer; a Retry only when `until` (monotonic seconds) has come.

        401 and 403 are asked once more, since a gateway that restarts says so too.
        """

        async def in_turn() -> T | Retry | Rejection:
            async with self._governor.turn(priority, host=host) as turn:
                answer = await call()
                if isinstance(answer, Retry) and answer.status == 429:
                    turn.limited(answer.hint_s)
                if isinstance(answer, Retry) and not answer.connected:
                    turn.unreachable()
                return answer

        return await self.persist(in_turn, until)

    async def persist(
        self, call: Callable[[], Awaitable[T | Retry | Rejection]], until: float
    ) -> T | Retry | Rejection:
        """The same without turns, for hosts that no rate limit covers."""
        tries, refused = 0, False
        while True:
            answer = await call()
            left = until - self.clock.monotonic()
            if isinstance(answer, Rejection) and answer.status in (401, 403) and not refused:
                refused = True
                await self.clock.sleep(REFUSED_ONCE_S)
            elif isinstance(answer, Retry) and left > 0:
                await self.clock.sleep(min(backoff(tries, answer.hint_s, self._rng), left))
                tries += 1
            else:
                return answer
