"""What Klein 9B Inpaint does to a photograph before it is encoded, on the processor."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from klein9b.klein.fill import filled
from klein9b.klein.framing import Size, resample
from klein9b.klein.mask import feathered
from standins import photograph

SIDE = 1024
WIDE, NARROW = 512, 16


def main() -> list[dict]:
    """Rows of {"name", "value", "unit", "limit"}."""
    image = np.asarray(photograph("astronaut").resize((SIDE, SIDE)), np.float32) / 255
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[SIDE // 4 : SIDE // 2, SIDE // 3 : SIDE // 2] = True
    mask = hidden.astype(np.float32)
    fill, scaled = seconds(lambda: filled(image, hidden)), seconds(lambda: resample(image, Size(1600, 1600)))
    wide, narrow = seconds(lambda: feathered(mask, WIDE)), seconds(lambda: feathered(mask, NARROW))
    return [
        row("a hole filled in a megapixel / the picture scaled once by Lanczos", fill / scaled, 20),
        row(f"a feather of {WIDE} pixels / one of {NARROW}", wide / narrow, 8),
    ]


def seconds(work: Callable[[], object]) -> float:
    """The fastest of a few: the machine's noise only adds."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def row(name: str, value: float, limit: float) -> dict:
    return {"name": name, "value": value, "unit": "x", "limit": limit}
