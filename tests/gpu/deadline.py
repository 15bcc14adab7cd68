"""How much time is left, of a stage and of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A moment that does not move.

    Args:
        seconds: from now.
        now: a clock that only goes forward, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    @property
    def left(self) -> float:
        """Seconds, below zero once it has passed."""
        return self._end - self._now()

    def within(self, seconds: float) -> Deadline:
        """That many seconds from now, or this one where it comes first."""
        return Deadline(min(seconds, self.left), self._now)
