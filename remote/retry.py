"""Questions that cost nothing, asked until they are answered: every GET, and uploads; and how long to wait between."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import TypeVar

from .dates import moment
from .governor import Governor, Priority
from .protocol import Rejection, Retry

BACKOFF_BASE_S = 0.5  # with full jitter the first wait is a quarter of a second on average
BACKOFF_CAP_S = 20.0  # a server that is back is noticed within it
HINT_RANGE_S = (0.5, 120.0)  # a hint of 0 must not spin, one of an hour must not lose a run
REFUSED_ONCE_S = 2.0  # for a gateway that restarts; a key that is wrong is told of soon enough

_SECONDS = re.compile(r"[0-9]{1,16}(\.[0-9]+)?")

T = TypeVar("T")


class Retrier:
    """Takes turns at the governor, backs off, and asks again until a deadline that the caller names."""

    def __init__(self, governor: Governor, rng: Random) -> None:
        self.clock, self._governor, self._rng = governor.clock, governor, rng

    async def ask(
        self,
        call: Callable[[], Awaitable[T | Retry | Rejection]],
        priority: Priority,
        host: str,
        deadline: float,
    ) -> T | Retry | Rejection:
        """The answer; a Retry only when the deadline (monotonic seconds) has come.

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

        return await self.persist(in_turn, deadline)

    async def persist(
        self, call: Callable[[], Awaitable[T | Retry | Rejection]], deadline: float
    ) -> T | Retry | Rejection:
        """The same without turns, for hosts that no rate limit covers."""
        tries, refused = 0, False
        while True:
            answer = await call()
            left = deadline - self.clock.monotonic()
            if isinstance(answer, Rejection) and answer.status in (401, 403) and not refused:
                refused = True
                await self.clock.sleep(REFUSED_ONCE_S)
            elif isinstance(answer, Retry) and left > 0:
                await self.clock.sleep(min(backoff(tries, answer.hint_s, self._rng), left))
                tries += 1
            else:
                return answer


def backoff(attempt: int, hint_s: float | None, rng: Random) -> float:
    """Seconds to wait before try number `attempt` + 1: full jitter, never less than the server asked for.

    Exponential backoff with full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Args:
        attempt: failures so far, less one: 0 after the first.
        hint_s: what `retry_hint` read.
    """
    spread = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt, 16))
    return max(hint_s or 0.0, rng.uniform(0.0, spread))


def retry_hint(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds the server asks us to wait, between 0.5 and 120; None when it does not say.

    Reads `retry-after` (seconds or an HTTP date) and `x-rate-limit-reset-at-utc` (ISO 8601, an HTTP date, or
    epoch seconds or milliseconds), the longer of the two. Dates are counted from the reply's own `date`, so a
    wrong clock on this machine does no harm.

    Args:
        headers: of the reply; names in lower case, or a mapping that ignores case.
        wall: this machine's time, for a reply without a date. Seconds since 1970.
    """
    date = moment(headers.get("date", ""))
    now = wall if date is None else date
    after = headers.get("retry-after", "").strip()
    reset = headers.get("x-rate-limit-reset-at-utc", "").strip()
    dates = [moment(reset), None if _SECONDS.fullmatch(after) else moment(after)]
    known = [date - now for date in dates if date is not None]
    known += [float(after)] if _SECONDS.fullmatch(after) else []
    return min(max(*known, HINT_RANGE_S[0]), HINT_RANGE_S[1]) if known else None
