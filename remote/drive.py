"""A row being worked on, and who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from .rows import Row
from .values import Terms


class GoneError(Exception):
    """The row was discarded by whoever planned it, or may have come back under another: claim again."""


@dataclass
class Drive:
    """The one driver of a row in this process.

    Attributes:
        terms: those of the run that began it.
        sent: whether some of it may have left, so that it is followed whoever leaves.
        state: what the row's own state does not show, if anything.
    """

    terms: Terms
    task: asyncio.Task[Row]
    waiters: int = 0
    sent: bool = False
    state: str = ""
    cancelled: bool = False

    def saw(self, state: str) -> None:
        self.state = state

    def cancel(self) -> None:
        """Ends it; it has sent nothing."""
        self.cancelled = True
        self.task.cancel()

    def stop_if_cancelled(self) -> None:
        """Before Python 3.12 `wait_for` loses a cancellation that comes together with its answer."""
        if self.cancelled:
            raise asyncio.CancelledError
