"""How long to wait: after a refusal or a fault, and between two looks at a running job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from random import Random

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 20.0
HINT_RANGE_S = (0.5, 120.0)
FIRST_ETA_S = 13.6  # the mean that Segmind's page shows for this model

_NUMBER = re.compile(r"[0-9]{1,16}(\.[0-9]+)?")
_FRACTION = re.compile(r"\.([0-9]+)")
_MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138


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
    now = _instant(headers.get("date", ""), default=wall)
    after = headers.get("retry-after", "").strip()
    reset = headers.get("x-rate-limit-reset-at-utc", "").strip()
    asked = [float(after)] if _NUMBER.fullmatch(after) else [_instant(after) - now]
    asked.append(_instant(reset) - now)
    known = [seconds for seconds in asked if seconds == seconds]
    return min(max(*known, HINT_RANGE_S[0]), HINT_RANGE_S[1]) if known else None


class Eta:
    """How long a job takes, as a moving average over finished ones.

    Args:
        finished_s: seconds from submit to completion of jobs already known, oldest first.
    """

    _WEIGHT = 0.2

    def __init__(self, finished_s: Iterable[float] = ()) -> None:
        self.seconds = FIRST_ETA_S
        for duration in finished_s:
            self.learn(duration)

    def learn(self, duration_s: float) -> None:
        """Counts one more job; a cold boot of minutes counts as twice the usual."""
        self.seconds += self._WEIGHT * (min(max(duration_s, 0.0), 2 * self.seconds) - self.seconds)


class Cadence:
    """When to look at one job: late for the first time, often when it should finish, ever less after that.

    Args:
        eta: shared by all jobs of the model.
        resumed: whether the job was submitted in an earlier run, so that it may be done by now.
    """

    FIRST_PART = 0.6
    PART = 0.15
    RANGE_S = (1.0, 10.0)
    JITTER = (0.85, 1.15)
    FINISH_WINDOW = (0.75, 1.35)

    def __init__(self, eta: Eta, rng: Random, *, resumed: bool = False) -> None:
        self._eta, self._rng = eta, rng
        self._looked, self._now = False, resumed

    def resume(self) -> None:
        """Makes the next look immediate: the machine slept, or the job was picked up again."""
        self._now = True

    def wait(self, elapsed_s: float) -> float:
        """Seconds until the next look.

        Args:
            elapsed_s: since the job was accepted.
        """
        first, at_once = not self._looked, self._now
        self._looked, self._now = True, False
        if at_once:
            return 0.0
        until_first = self.FIRST_PART * self._eta.seconds - elapsed_s
        return until_first if first and until_first > 0 else self._between(elapsed_s)

    def _between(self, elapsed_s: float) -> float:
        wait = min(max(self.PART * elapsed_s, self.RANGE_S[0]), self.RANGE_S[1])
        low, high = (part * self._eta.seconds for part in self.FINISH_WINDOW)
        return wait * self._rng.uniform(*self.JITTER) * (0.5 if low <= elapsed_s <= high else 1.0)


def _instant(text: str, *, default: float = float("nan")) -> float:
    """Seconds since 1970 of a date in any of the accepted spellings."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        return number / 1000 if number >= _MILLISECONDS_FROM else number
    for read in (_read_iso, parsedate_to_datetime):
        try:
            return _utc(read(text))
        except (ValueError, OverflowError):
            continue
    return default


def _read_iso(text: str) -> datetime:
    """ISO 8601 as servers write it; Python 3.10 itself knows neither Z nor an odd number of decimals."""
    text = re.sub(r"\s*(Z|UTC)$", "+00:00", text, flags=re.IGNORECASE)
    return datetime.fromisoformat(_FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", text, count=1))


def _utc(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
