"""An event loop whose time jumps to the next timer, and the clock that reads it. Not for real sockets."""

import asyncio
import selectors

EPOCH = 1_785_000_000.0


class _Jumping(selectors.DefaultSelector):
    """Where a real loop would wait for a timer, moves the time there instead."""

    now = 0.0

    def select(self, timeout=None):
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("every task waits for something that no timer brings")
        if not found:
            self.now += timeout
        return found


class VirtualClock:
    def __init__(self, selector):
        self._selector, self.slept = selector, 0.0

    def monotonic(self):
        return self._selector.now

    def wall(self):
        return EPOCH + self._selector.now + self.slept

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


def run(main):
    """What the coroutine `main(clock)` returns, in no time."""
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    try:
        return loop.run_until_complete(main(VirtualClock(selector)))
    finally:
        left = asyncio.all_tasks(loop)
        loop.close()
        assert not left, f"tasks left running: {left}"
