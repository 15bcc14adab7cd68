"""The host's IMAGE batches as pictures: one rule for every dtype and channel count, wherever a picture comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ...klein.framing import UnusableImage, to_rgb


@dataclass(frozen=True)
class Picture:
    """One frame of a batch.

    Attributes:
        label: what an error calls it, such as "image_2, frame 3".
        pixels: (height, width, 3) float32 in [0, 1].
    """

    label: str
    pixels: np.ndarray


def frames_in_order(images: Mapping[str, torch.Tensor | None]) -> list[Picture]:
    """Every frame of every image, in the order of the sockets' numbers; an empty socket has none.

    Raises:
        UnusableImage: as `frames_of`.
    """
    names = sorted(images, key=lambda name: int(name.rsplit("_", 1)[1]))
    batches = ((name, images[name]) for name in names)
    return [frame for name, batch in batches if batch is not None for frame in frames_of(name, batch)]


def frames_of(name: str, batch: torch.Tensor) -> list[Picture]:
    """Every frame of one batch (frames, height, width, channels).

    Raises:
        UnusableImage: no frame, another shape, a channel count that is not an image's, NaN or infinity. The message
            begins with the frame's label.
    """
    if len(batch) == 0:
        raise UnusableImage(f"{name}: The batch holds no frame. Connect one that does, or disconnect {name}.")
    labels = [name] if len(batch) == 1 else [f"{name}, frame {i + 1}" for i in range(len(batch))]
    return [_picture(label, frame) for label, frame in zip(labels, batch)]


def _picture(label: str, frame: torch.Tensor) -> Picture:
    if frame.ndim != 3:
        raise UnusableImage(
            f"{label}: Expected pictures shaped [frames, height, width, channels], got frames of {list(frame.shape)}. "
            "The node before this one returned something that is not an image."
        )
    try:
        return Picture(label, to_rgb(_floats(frame)))
    except UnusableImage as error:
        raise UnusableImage(f"{label}: {error}") from None


def _floats(frame: torch.Tensor) -> np.ndarray:
    """As float32. Integers fill their type's range, so that 8-bit and 16-bit levels both end at 1."""
    pixels = frame.cpu().float().numpy()
    is_levels = not frame.is_floating_point() and frame.dtype != torch.bool
    return pixels / np.float32(torch.iinfo(frame.dtype).max) if is_levels else pixels
