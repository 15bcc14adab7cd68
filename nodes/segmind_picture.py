"""Pictures from Segmind as ComfyUI's tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..remote.service import Picture, SegmindError, refuse_too_many_references


def frames_in_order(images: dict[str, torch.Tensor | None], urls: int = 0) -> list[np.ndarray]:
    """Every frame of every image, in the order of the sockets: [height, width, channels] float32.

    Args:
        urls: how many references come beside them, by their addresses.

    Raises:
        BadInput: together they are more than a request takes.
    """
    names = sorted(images, key=lambda name: int(name.rsplit("_", 1)[1]))
    batches = {name: batch for name in names if (batch := images[name]) is not None}
    refuse_too_many_references({**{name: len(batch) for name, batch in batches.items()}, "image_urls": urls})
    return [frame.cpu().float().numpy() for batch in batches.values() for frame in batch]


def as_batch(pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE (n, height, width, 3) and MASK (n, height, width).

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
