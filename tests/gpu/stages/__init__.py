"""What make gpu does, in order of worth, and how much of its time each may take."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from ..context import Context


@dataclass(frozen=True)
class Stage:
    """One part, run in a process of its own.

    Attributes:
        share: of all seconds.
    """

    name: str
    title: str
    share: float

    def run(self, context: Context) -> None:
        import_module(f"{__package__}.{self.name}").run(context)


STAGES = (
    Stage("environment", "the machine, and what the ladder chose on it", 0.10),
    Stage("parity", "every kernel against its eager op", 0.10),
    Stage("matrix", "the benchmark", 0.50),
    Stage("paths", "what only a card can try", 0.14),
    Stage("buckets", "where the time goes", 0.09),
    Stage("products", "plain matrix products of the same shapes", 0.05),
)
# With whatever time the others left, the benchmark goes on where it stopped.
FILLER = "matrix"


def stage(name: str) -> Stage:
    return next(one for one in STAGES if one.name == name)
