"""Pictures out of the host's batches, by one rule for every dtype and channel count, and back into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...klein.framing import UnusableImage, to_rgb
from ...remote.service import Picture, SegmindError


@dataclass(frozen=True)
class ConnectedImage:
    """One frame of a batch.

    Attributes:
        socket: the input it is connected to.
        label: what an error calls it, such as "image_2, frame 3".
        pixels: (height, width, 3) float32 in [0, 1].
    """

    socket: str
    label: str
    pixels: np.ndarray


def frames_in_order(images: Mapping[str, torch.Tensor | None]) -> list[ConnectedImage]:
    """Every frame of every image, in the order of the sockets' numbers; an empty socket has none.

    Raises:
        UnusableImage: as `frames_of`.
    """
    names = sorted(images, key=lambda name: int(name.rsplit("_", 1)[1]))
    batches = ((name, images[name]) for name in names)
    return [frame for name, batch in batches if batch is not None for frame in frames_of(name, batch)]


def frames_of(socket: str, batch: torch.Tensor) -> list[ConnectedImage]:
    """Every frame of one batch (frames, height, width, channels).

    Raises:
        UnusableImage: no frame, another shape, a channel count that is not an image's, NaN or infinity. The message
            begins with the frame's label.
    """
    if len(batch) == 0:
        raise UnusableImage(f"{socket}: The batch holds no frame. Connect one that does, or disconnect {socket}.")
    labels = [socket] if len(batch) == 1 else [f"{socket}, frame {i + 1}" for i in range(len(batch))]
    return [ConnectedImage(socket, label, _pixels(label, frame)) for label, frame in zip(labels, batch)]


def as_batch(pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE (n, height, width, 3) and MASK (n, height, width) of pictures from Segmind.

    Raises:
        SegmindError: the pictures differ in size, which a batch cannot hold; they are paid and kept.
    """
    sizes = {(picture.decoded.width, picture.decoded.height) for picture in pictures}
    if len(sizes) > 1:
        names = ", ".join(str(picture.receipt["request_id"]) for picture in pictures)
        raise SegmindError(
            f"The pictures came in different sizes ({', '.join(f'{w}x{h}' for w, h in sorted(sizes))}), which"
            " one batch cannot hold",
            "All of them are paid and kept",
            f"Set count to 1 and run each seed, which costs nothing now, or recover them with Segmind Jobs: {names}",
        )
    images = np.stack([picture.decoded.image for picture in pictures])
    masks = np.stack([picture.decoded.mask for picture in pictures])
    return torch.from_numpy(images), torch.from_numpy(masks)


def _pixels(label: str, frame: torch.Tensor) -> np.ndarray:
    if frame.ndim != 3:
        raise UnusableImage(
            f"{label}: Expected pictures shaped [frames, height, width, channels], got frames of {list(frame.shape)}. "
            "The node before this one returned something that is not an image."
        )
    try:
        return to_rgb(_floats(frame))
    except UnusableImage as error:
        raise UnusableImage(f"{label}: {error}") from None


def _floats(frame: torch.Tensor) -> np.ndarray:
    """As float32. Integers fill their type's range, so that 8-bit and 16-bit levels both end at 1."""
    pixels = frame.cpu().float().numpy()
    is_levels = not frame.is_floating_point() and frame.dtype != torch.bool
    return pixels / np.float32(torch.iinfo(frame.dtype).max) if is_levels else pixels
