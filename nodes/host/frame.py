"""The KLEIN9B_FRAME socket: image 1, and how an edit of it comes back to its own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from comfy_api.v0_0_2 import io

from ...klein.framing import Placement, UnusableImage, restore_image
from ...klein.inpaint import Inpainting, restore_inpainting

FrameSocket = io.Custom("KLEIN9B_FRAME")


@dataclass(frozen=True)
class FramedImage:
    """Image 1, (H, W, 3) float32 in [0, 1], and how it was fitted to the model's grid.

    The image is the connected IMAGE's own memory wherever that is float32 RGB in RAM, so nobody may write into it.
    """

    image: np.ndarray
    placement: Placement

    def restored(self, edited: np.ndarray) -> np.ndarray:
        """An edit of it (H, W, 3) at its own size and framing.

        Raises:
            UnusableImage: the edit has another shape than the grid.
        """
        return restore_image(edited, self.image, self.placement)


@dataclass(frozen=True)
class PaintedImage:
    """Image 1 where a part of it is painted anew; as `FramedImage`."""

    inpainting: Inpainting

    @property
    def image(self) -> np.ndarray:
        return self.inpainting.canvas

    def restored(self, edited: np.ndarray) -> np.ndarray:
        """The image with the edit (H, W, 3) in it.

        Raises:
            UnusableImage: the edit has another shape than the grid.
        """
        return restore_inpainting(edited, self.inpainting)


@dataclass(frozen=True)
class FramedBatch:
    """A batch of photographs, each edited to a picture of its own."""

    photographs: tuple[FramedImage, ...]


Frame = FramedImage | PaintedImage | FramedBatch


def restored(frame: Frame, edits: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every edit (H, W, 3) over image 1, or over its own photograph where they are a batch.

    Raises:
        UnusableImage: an edit has another shape than the grid, or a batch has another number of edits.
    """
    if not isinstance(frame, FramedBatch):
        return [frame.restored(edited) for edited in edits]
    if len(edits) != len(frame.photographs):
        raise UnusableImage(
            f"image: Expected {len(frame.photographs)} pictures, one for each photograph connected to image 1, got "
            f"{len(edits)}. Connect the whole batch."
        )
    return [one.restored(edited) for one, edited in zip(frame.photographs, edits)]
