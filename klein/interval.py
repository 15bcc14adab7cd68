"""A part of a schedule: where classifier-free guidance acts, or a reference counts.

Fractions are the host's sampling percent: 0 is the noisiest sigma a model knows and 1 is sigma 0, whatever part of that
a run samples. Both ends belong to the interval, as in the host's nodes with a start and an end, but an interval that
ends where it starts holds nothing (Kynkaanniemi et al. 2024, arXiv 2404.07724).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

# Of a sigma: samplers that count in float32 may miss the schedule's by a unit in the last place.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Interval:
    """Fractions of the schedule between which something acts.

    Raises:
        ValueError: they are not numbers from 0 to 1 in order.
    """

    start: float = 0.0
    end: float = 1.0
    what: ClassVar[str] = "interval"

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not 0 <= value <= 1:
                raise ValueError(
                    f"The {name} of the {self.what} is {value}, but must be from 0 (the first step) to 1 (the last)."
                )
        if self.start > self.end:
            raise ValueError(
                f"The {self.what} starts at {self.start} and ends at {self.end}, before it starts: swap the two."
            )

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == 1

    @property
    def empty(self) -> bool:
        return self.start == self.end

    def holds(self, sigma: float, schedule: Sequence[float], sigma_at: Callable[[float], float]) -> bool:
        """Whether the step that an evaluation belongs to is in it.

        A step is judged by the sigma it starts from, and all its evaluations alike: a sampler of higher order takes
        differences between them, which must not be differences between on and off.

        Args:
            sigma: of the evaluation.
            schedule: the sigmas that are sampled, steps and one; empty where they are not known.
            sigma_at: the model's sigma at a fraction of its schedule, falling.
        """
        if self.empty:
            return False
        step = step_start(sigma, schedule)
        not_before = self.start == 0 or step <= float(sigma_at(self.start))
        return not_before and (self.end == 1 or step >= float(sigma_at(self.end)))


class CfgInterval(Interval):
    """Where cfg acts; elsewhere it is 1."""

    what = "cfg interval"

    @property
    def approximate(self) -> str:
        """Why the picture is not the one plain cfg makes, empty where it is."""
        if self.whole:
            return ""
        if self.empty:
            return "cfg acts in no step"
        return f"cfg acts only from {self.start:.0%} to {self.end:.0%} of the schedule"


def step_start(sigma: float, schedule: Sequence[float]) -> float:
    """The sigma from which the step starts that evaluates at sigma; sigma itself outside the schedule."""
    near = [start for start in schedule if math.isclose(sigma, start, rel_tol=ROUNDING)]
    around = [a for a, b in pairwise(schedule) if min(a, b) < sigma < max(a, b)]
    return next(iter(near + around), sigma)
