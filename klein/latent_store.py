"""Encoded references, kept by content so that one image meets the VAE once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
import torch

CAPACITY = 32
Latent = TypeVar("Latent")


class LatentStore(Generic[Latent]):
    """The least recently used latents of one VAE, by the pixels they encode.

    32 latents of one megapixel take 67 MB.
    """

    def __init__(self) -> None:
        self._latents: OrderedDict[Hashable, Latent] = OrderedDict()

    def encode(
        self,
        image: np.ndarray,
        encode: Callable[[torch.Tensor], Latent],
        *,
        where: Hashable = None,
        keep: Callable[[Latent], bool] = lambda latent: True,
    ) -> Latent:
        """The latent of an image (H, W, 3); `encode` takes pixels (1, H, W, 3) and runs only when none is kept.

        Args:
            where: whatever else the latent depends on, such as the device that has memory for the whole or not.
            keep: whether a latent is what it would be the next time, too.
        """
        key = (_digest(image), where)
        if key not in self._latents:
            latent = encode(torch.from_numpy(np.ascontiguousarray(image))[None])
            if not keep(latent):
                return latent
            self._latents[key] = latent
        self._latents.move_to_end(key)
        while len(self._latents) > CAPACITY:
            self._latents.popitem(last=False)
        return self._latents[key]


def _digest(image: np.ndarray) -> bytes:
    content = hashlib.blake2b(repr((image.shape, image.dtype.str)).encode())
    content.update(np.ascontiguousarray(image).data)
    return content.digest()
