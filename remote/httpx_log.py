"""Keeps httpx's line per request off the console for this pack's own requests; everybody else's stays.

A job is asked after every few seconds, and httpx says so at INFO each time. Its logger is one for the whole program, so
neither its level nor its handlers are touched: a filter drops what is logged while a request of ours is being sent.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

_OURS: ContextVar[bool] = ContextVar("klein9b_request", default=False)


class _NotOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not _OURS.get()


_FILTER = _NotOurs()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Around the sending of one request; other tasks and threads are heard meanwhile."""
    logging.getLogger("httpx").addFilter(_FILTER)
    ours = _OURS.set(True)
    try:
        yield
    finally:
        _OURS.reset(ours)
