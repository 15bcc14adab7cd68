"""Checks that several ops share."""

from __future__ import annotations

from torch import Tensor


def check_modulation(op: str, x: Tensor, **parts: Tensor) -> None:
    """Every part must be (batch or 1, 1, hidden) for an x of (batch, tokens, hidden).

    Raises:
        ValueError: one is not.
    """
    batch, _, hidden = x.shape
    for name, part in parts.items():
        if tuple(part.shape) not in ((batch, 1, hidden), (1, 1, hidden)):
            raise ValueError(
                f"{op}: {name} must be {[batch, 1, hidden]} or {[1, 1, hidden]} for x {list(x.shape)}, "
                f"got {list(part.shape)}."
            )
