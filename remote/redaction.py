"""Keeps API keys out of every text that leaves this package: exceptions, logs, progress, receipts."""

from __future__ import annotations

import logging
import re

KEY_SHAPE = re.compile(r"SG_[0-9A-Za-z]{8,}")
MASK = "[key removed]"

_live: set[str] = set()


def hide(secret: str) -> None:
    """Adds a key in use to what `redact` removes, for keys that do not have Segmind's published shape."""
    _live.add(secret)


def redact(text: str) -> str:
    """`text` without any key in use and without anything shaped like a Segmind key."""
    for secret in sorted(_live, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return KEY_SHAPE.sub(MASK, text)


def looks_like_key(text: str) -> bool:
    """Whether `text` holds a key in use or something shaped like one."""
    return redact(text) != text


class RedactingFilter(logging.Filter):
    """Removes keys from a record's message, traceback and stack.

    Python asks a logger's filters only about records made on that very logger, not on its children: attach
    this to a handler, or to each logger that speaks.
    """

    _plain = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(_message(record)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._plain.formatException(record.exc_info)
        record.exc_text = record.exc_text and redact(record.exc_text)
        record.stack_info = record.stack_info and redact(record.stack_info)
        return True


def _message(record: logging.LogRecord) -> str:
    """The formatted message; a badly formed log call must not break the code that made it."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"
