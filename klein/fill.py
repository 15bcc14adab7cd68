"""What stands where a photograph may not be seen: a smooth picture made of the visible pixels alone.

A VAE looks far around each pixel, so dropping a token does not drop what its neighbours know of it. What is under a
mask is therefore replaced before anything is encoded. Push and pull (Gortler et al. 1996, The Lumigraph): means of the
visible pixels, coarser and coarser, then each level laid over the next coarser one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

UNKNOWN = 0.5
FINEST = 256**2  # pixels of the finest level: a smooth picture needs no more
ROUNDS = 8  # of smoothing at each level, which take the corners out of its pixels


def filled(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with its hidden pixels (H, W) replaced, on 8-bit levels; mid grey where nothing is visible.

    No hidden pixel has any influence, and no visible one is changed.
    """
    if not hidden.any():
        return image
    visible = np.where(hidden[..., None], np.float32(0), image)
    seen = torch.from_numpy(visible).movedim(-1, 0)[None], torch.from_numpy(~hidden)[None, None].float()
    step = math.ceil(math.sqrt(hidden.size / FINEST))
    smooth = _pulled(*(_mean(one, step) for one in seen)) if step > 1 else _pulled(*seen)
    whole = F.interpolate(smooth, size=hidden.shape, mode="bilinear")[0].movedim(0, -1).numpy()
    return np.where(hidden[..., None], np.round(whole.clip(0, 1) * np.float32(255)) / np.float32(255), image)


def _mean(values: Tensor, step: int) -> Tensor:
    return F.avg_pool2d(values, step, ceil_mode=True, count_include_pad=False)


def _pulled(colour: Tensor, weight: Tensor) -> Tensor:
    """Colour that covers as much of each pixel as its weight says, laid over the same from twice as far."""
    if weight.min() == 1:
        return colour
    height, width = weight.shape[2:]
    if height == width == 1:
        return colour / weight if weight > 0 else torch.full_like(colour, UNKNOWN)
    coarse = _pulled(_mean(colour, 2), _mean(weight, 2))
    smooth = colour + (1 - weight) * F.interpolate(coarse, size=(height, width), mode="bilinear")
    for _ in range(ROUNDS):
        smooth = colour + (1 - weight) * F.avg_pool2d(smooth, 3, stride=1, padding=1, count_include_pad=False)
    return smooth
