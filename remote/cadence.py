"""When to look at a running job: often where it is likely to finish, seldom elsewhere.

Between looks that lie n(t) to the second, a job that finishes at t is seen 1 / 2 n(t) late. With f the density of how
long jobs take and S the part of them that takes longer, a schedule costs the integral of S n looks and has a mean
lateness of the integral of f / (2 n a), in units of what is allowed at t, a(t). For any number of looks the least
lateness is had at (calculus of variations)

    n(t) = c sqrt(f(t) / (S(t) a(t))),    lateness * looks = K^2 / 2,    K = integral of sqrt(f S / a)

so that f is all there is to know. It is a prior about the published mean with a spread of two and a half times, and a
kernel on each of the account's last jobs; c is what makes the lateness `GOAL` of the allowed, within `MOST_LOOKS`.

Aimed at: seen at most 1 s late and 25 % of the job's length, on average, for jobs of any one length from 1 to 60 s
that varies by up to a tenth and of which twenty are known, at no more than 8 requests a job, submit and result among
them, on average over the lengths. Where jobs vary by a fourth, K^2 / 2 says what is left. What is had in these cases,
for a first job of which nothing is known, and for jobs of every length mixed: `tests/remote/test_cadence.py`. All of it
for one job at a time: several share the account's rate (`governor`), which then spaces their looks further.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from random import Random

import numpy as np
import numpy.typing as npt

FIRST_ETA_S = 13.6  # the mean that Segmind's page shows for this model

PRIOR_S, PRIOR_WEIGHT = 10.0, 0.3  # the median of the prior, and what it weighs beside the last job
KEPT, FADING = 20, 0.9  # jobs that are remembered, and what each weighs beside the next
WIDE, WIDE_PART = 0.5, 0.05  # of the prior, and of that part of each job which stands for a service that changes
NARROWEST = 0.05  # a kernel's standard deviation, as a part of the duration
LATE_S, LATE_PART, LATE_AFTER_S = 1.0, 0.25, 60.0  # allowed: the less of the two, and in proportion after a minute
GOAL, MOST_LOOKS = 0.7, 11.0

_GRID_S = np.geomspace(0.05, 4000.0, 1000)
_STEP_S = np.diff(_GRID_S)
_ALLOWED_S = np.maximum(np.minimum(LATE_PART * _GRID_S, LATE_S), LATE_S * _GRID_S / LATE_AFTER_S)

Curve = npt.NDArray[np.float64]


class Durations:
    """How long jobs take from submit to completion, as far as is known.

    Args:
        finished_s: seconds that jobs took, oldest first.
    """

    def __init__(self, finished_s: Iterable[float] = ()) -> None:
        self._known = deque((_on_grid(seconds) for seconds in finished_s), maxlen=KEPT)
        self._plan: Curve | None = None

    def learn(self, seconds: float) -> None:
        """Counts one more job."""
        self._known.append(_on_grid(seconds))
        self._plan = None

    @property
    def expected_s(self) -> float:
        """The usual duration: a median, in which the published mean counts as one job and the last ones most."""
        weighed = sorted([(FIRST_ETA_S, 1.0), *zip(self._known, self._weights())])
        until = np.cumsum([weight for _, weight in weighed])
        return weighed[int(np.searchsorted(until, until[-1] / 2))][0]

    def looks_by(self, elapsed_s: float) -> float:
        """How many looks, in part, a job is worth until this age."""
        return float(np.interp(elapsed_s, _GRID_S, self._looks()))

    def age_of(self, look: float) -> float:
        """The inverse of `looks_by`; endless for more than there are."""
        return float(np.interp(look, self._looks(), _GRID_S, right=math.inf))

    def _weights(self) -> list[float]:
        return [FADING**age for age in range(len(self._known))][::-1]

    def _looks(self) -> Curve:
        """The integral of n on the grid."""
        if self._plan is None:
            self._plan = self._planned()
        return self._plan

    def _planned(self) -> Curve:
        density, longer = self._distribution()
        cost = np.sqrt(density * longer / _ALLOWED_S)
        k = float(cost[1:] @ _STEP_S)
        c = min(k / (2 * GOAL), MOST_LOOKS / k)
        per_s = c * np.sqrt(density / (longer * _ALLOWED_S))
        return np.concatenate([[0.0], np.cumsum(np.maximum(per_s[1:], 1e-9) * _STEP_S)])

    def _distribution(self) -> tuple[Curve, Curve]:
        """f and S on the grid: a wide prior, and two kernels a job."""
        known, weights, jobs = np.array(self._known), np.array(self._weights()), len(self._known)
        medians = np.concatenate([[PRIOR_S], known, known])
        spreads = np.repeat([WIDE, self._bandwidth(), WIDE], [1, jobs, jobs])
        parts = np.concatenate([[PRIOR_WEIGHT], (1 - WIDE_PART) * weights, WIDE_PART * weights])
        density, longer = _log_logistic(medians[:, None], spreads[:, None])
        return parts @ density / parts.sum(), parts @ longer / parts.sum()

    def _bandwidth(self) -> float:
        """The narrow kernels' scale, by Scott's rule on the logarithms of what is known."""
        if not self._known:
            return NARROWEST
        logs, weights = np.log(self._known), np.array(self._weights())
        mean = np.average(logs, weights=weights)
        deviation = math.sqrt(np.average((logs - mean) ** 2, weights=weights))
        jobs = weights.sum() ** 2 / (weights**2).sum()
        return max(NARROWEST, 0.8 * deviation * jobs**-0.2) * math.sqrt(3) / math.pi


class Cadence:
    """When to look at one job.

    Args:
        durations: shared by all jobs of the model, and asked anew before each look.
    """

    SHORTEST_S, LONGEST_S = 0.25, 30.0  # between two looks
    FIRST, NEXT = (0.5, 1.0), (0.9, 1.1)  # drawn from, so that jobs do not march in step

    def __init__(self, durations: Durations, rng: Random) -> None:
        self._durations, self._rng, self._looked = durations, rng, False

    def wait(self, elapsed_s: float) -> float:
        """Seconds until the next look; none for the first at a job that is older than that.

        Args:
            elapsed_s: since the submit.
        """
        first, self._looked = not self._looked, True
        look = self._rng.uniform(*self.FIRST) if first else self._after(elapsed_s)
        wait = self._durations.age_of(look) - elapsed_s
        return min(max(wait, 0.0 if first else self.SHORTEST_S), self.LONGEST_S)

    def _after(self, elapsed_s: float) -> float:
        return self._durations.looks_by(elapsed_s) + self._rng.uniform(*self.NEXT)


def _on_grid(seconds: float) -> float:
    return min(max(seconds, float(_GRID_S[0])), float(_GRID_S[-1]))


def _log_logistic(median_s: Curve, spread: Curve) -> tuple[Curve, Curve]:
    """Density, and the part that is longer, of durations whose logarithm is logistic with this scale."""
    longer = 1 / (1 + np.exp(np.clip(np.log(_GRID_S / median_s) / spread, -60.0, 60.0)))
    return longer * (1 - longer) / (spread * _GRID_S), longer
