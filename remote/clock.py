"""The one source of time, so that tests can move it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds that never jump: for durations and deadlines."""

    def wall(self) -> float:
        """Seconds since 1970 UTC: for dates, expiry and noticing that the machine slept."""

    async def sleep(self, seconds: float) -> None:
        """Waits that many seconds of `monotonic`."""


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
