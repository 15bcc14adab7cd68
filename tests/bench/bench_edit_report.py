"""How long Klein 9B Edit Report takes for a photograph of two megapixels, on the processor."""

from __future__ import annotations

import numpy as np
import torch
from bench.bench_inpaint import row, seconds

from klein9b.klein.edit_report import report_on
from klein9b.klein.framing import Size, resample
from standins.edited_photographs import edited

WIDTH, HEIGHT = 1664, 1248


def main() -> list[dict]:
    """Rows of {"name", "value", "unit", "limit"}."""
    pair = edited(WIDTH, HEIGHT, shift=(5.3, -2.1), zoom=1.01, changed=0.3, noise=2, quality=85)
    original, edit = (torch.from_numpy(np.moveaxis(one, 2, 0).copy()) for one in (pair.original, pair.edit))
    report = seconds(lambda: report_on(original, edit, 5.0))
    scaled = seconds(lambda: resample(pair.original, Size(2 * WIDTH, 2 * HEIGHT)))
    return [row("an edit report of 2 megapixels / the picture enlarged twice by Lanczos", report / scaled, 60)]
