"""The one reader of dates, in every spelling that servers use, and the names of days."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from .lenient_json import amount

DAY_S = 86400.0
LATEST = 253_402_300_799.0  # the end of the year 9999

_NUMBER = re.compile(r"[0-9]{1,16}(\.[0-9]+)?")
_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?\s*(Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?",
    re.IGNORECASE,
)
_MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138


def moment(value: object) -> float | None:
    """Unix seconds of a date; None for what is none.

    Args:
        value: ISO 8601 (UTC where it names no zone), an HTTP date, or epoch seconds or milliseconds.
    """
    if isinstance(value, str):
        text = value.strip()
        return _epoch(float(text)) if _NUMBER.fullmatch(text) else _written(text)
    number = amount(value)
    return number if number is None else _epoch(number)


def day(when: float) -> str:
    """The date in UTC, of the nearest moment that has one on every system."""
    return datetime.fromtimestamp(min(max(when, 0.0), LATEST), timezone.utc).strftime("%Y-%m-%d")


def _epoch(number: float) -> float:
    return number / 1000 if number >= _MILLISECONDS_FROM else number


def _written(text: str) -> float | None:
    for read in (_read_iso, parsedate_to_datetime):
        try:
            when = read(text)
            return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):  # email.utils raises all of them
            continue
    return None


def _read_iso(text: str) -> datetime:
    """Any number of decimals, and any zone: Python 3.10 itself takes neither Z nor other than 3 or 6 decimals."""
    found = _ISO.fullmatch(text)
    if found is None:
        raise ValueError("not ISO 8601")
    date, minute, second, fraction, zone = found.groups("")
    offset = "+00:00" if zone.upper() in ("", "Z", "UTC") else f"{zone[:3]}:{zone[3:].lstrip(':') or '00'}"
    return datetime.fromisoformat(f"{date}T{minute or '00:00'}:{second or '00'}.{fraction[:6]:0<6}{offset}")
