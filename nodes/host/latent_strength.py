"""How much noise a LATENT asks for, carried beside its samples to Klein 9B Scheduler."""

from __future__ import annotations

from typing import Any

_KEY = "klein9b_strength"


def with_strength(latent: dict[str, Any], strength: float) -> dict[str, Any]:
    """The same, to be sampled from the last part of the schedule that strength says, from 0 to 1 for all of it."""
    return {**latent, _KEY: strength} if strength < 1 else latent


def strength_of(latent: dict[str, Any]) -> float:
    return float(latent.get(_KEY, 1.0))
