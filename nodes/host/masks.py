"""Masks out of the host's batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ...klein.influence import UnusableRegion


def one_mask(socket: str, batch: Tensor) -> Tensor:
    """(height, width) float32 in [0, 1], of a batch of one.

    Raises:
        UnusableRegion: another shape, several masks, NaN or infinity.
    """
    masks = batch[None] if batch.ndim == 2 else batch
    if masks.ndim != 3 or not masks.numel():
        raise UnusableRegion(
            f"{socket}: Expected one mask shaped [1, height, width], got {list(batch.shape)}. The node before this one "
            "returned something that is not a mask."
        )
    if len(masks) > 1:
        raise UnusableRegion(
            f"{socket}: Expected one mask, got {len(masks)}. Take one of them, or join them with a node that composes "
            "masks."
        )
    if not torch.isfinite(masks).all():
        raise UnusableRegion(f"{socket}: The mask holds NaN or infinite values, so the node before this one failed.")
    return masks[0].detach().cpu().float().clamp(0, 1)
