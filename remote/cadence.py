"""When to look at a running job."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

FIRST_ETA_S = 13.6  # the mean that Segmind's page shows for this model


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
        self._looked, self._resumed = False, resumed

    def wait(self, elapsed_s: float) -> float:
        """Seconds until the next look.

        Args:
            elapsed_s: since the job was accepted.
        """
        first, self._looked = not self._looked, True
        if first and self._resumed:
            return 0.0
        to_first_s = self.FIRST_PART * self._eta.seconds - elapsed_s
        return to_first_s if first and to_first_s > 0 else self._between(elapsed_s)

    def _between(self, elapsed_s: float) -> float:
        wait = min(max(self.PART * elapsed_s, self.RANGE_S[0]), self.RANGE_S[1])
        low, high = (part * self._eta.seconds for part in self.FINISH_WINDOW)
        return wait * self._rng.uniform(*self.JITTER) * (0.5 if low <= elapsed_s <= high else 1.0)
