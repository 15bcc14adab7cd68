"""The KLEIN9B_FRAME socket: how image 1 was fitted, and image 1 itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from comfy_api.v0_0_2 import io

from ...klein.framing import Placement

FrameSocket = io.Custom("KLEIN9B_FRAME")


@dataclass(frozen=True)
class FramedImage:
    """Image 1, (H, W, 3) float32 in [0, 1], and how it was fitted to the model's grid.

    The image is the connected IMAGE's own memory wherever that is float32 RGB in RAM, so nobody may write into it.
    """

    image: np.ndarray
    placement: Placement
