"""Pictures through the VAE once each: whole where the device can hold that, in tiles where it cannot, and told so."""

from __future__ import annotations

import copy
import functools
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ...klein.latent_store import LatentStore
from .newer_host import needs_host

if TYPE_CHECKING:
    from comfy.sd import VAE

log = logging.getLogger(__name__)

STORE = "klein9b_encoded_references"
GIB = 2**30
# What the encoder has alive at most, in numbers of its dtype, without its weights. The host reserves 4.6 times as much,
# so that by its own estimate a picture would go to pieces on a card that holds the whole easily.
ACTIVATIONS_PER_PIXEL = 384


class NotEvenInTiles(RuntimeError):
    """The device cannot encode a picture at all; the message names it and says what to do."""


@dataclass(frozen=True)
class Shortage:
    """Why a picture was encoded in tiles, in bytes; None was there where nobody knows."""

    needed: int
    there: int | None

    def __str__(self) -> str:
        there = "not so much" if self.there is None else f"{self.there / GIB:.1f} GiB"
        return f"{self.needed / GIB:.1f} GiB needed, {there} there"


@dataclass(frozen=True)
class Encoded:
    """A latent (1, 128, height, width).

    Attributes:
        in_tiles: why it was made of tiles, which blend into it at their edges; None where it is whole.
        by_chance: memory happened to be short; the next time there may be enough for the whole.
    """

    latent: Tensor
    in_tiles: Shortage | None
    by_chance: bool = False


@needs_host()
def encode_pictures(vae: VAE, pictures: Iterable[tuple[str, np.ndarray]]) -> tuple[list[Tensor], list[str]]:
    """Latents of labelled pictures (height, width, 3), and a sentence for each that was encoded in tiles.

    Raises:
        NotEvenInTiles: memory ran out with tiles too.
    """
    store = vae.patcher.get_attachment(STORE)
    if store is None:
        store = LatentStore()
        vae.patcher.set_attachments(STORE, store)
    encoder = _Encoder(vae)
    latents, told = [], []
    for label, pixels in pictures:
        encode = functools.partial(encoder.encode, label)
        encoded = store.encode(pixels, encode, where=str(vae.device), keep=lambda made: not made.by_chance)
        latents.append(encoded.latent)
        if encoded.in_tiles is not None:
            told.append(f"{label} was encoded in tiles: {encoded.in_tiles}")
            log.warning("Klein 9B: %s.", told[-1])
    return latents, told


class _Encoder:
    """What it needs of the host is looked up first: its absence must not hide an error, nor depend on what is kept.

    Attributes:
        there: bytes for activations when nothing but this VAE is on its device. Unlimited where nobody knows: DirectML
            tells ComfyUI nothing, and ComfyUI then says 1 GiB; Apple's card takes of the RAM, and swaps.
    """

    def __init__(self, vae: VAE) -> None:
        import comfy.model_management

        self.vae = vae
        reserved = comfy.model_management.extra_reserved_memory() + vae.patcher.model_size()
        total = comfy.model_management.get_total_memory(vae.device)
        self._told = not comfy.model_management.is_directml_enabled()
        self.there = max(0, int(total - reserved)) if self._told and vae.device.type != "mps" else sys.maxsize
        self._raise_non_oom = comfy.model_management.raise_non_oom

    def encode(self, label: str, pixels: Tensor) -> Encoded:
        try:
            return self._in_tiles_or_whole(pixels)
        except Exception as error:
            self._raise_non_oom(error)
            _, height, width, _ = pixels.shape
            raise NotEvenInTiles(
                f"{label}: There is not enough memory to encode its {width}x{height} pixels, not even in tiles. Close "
                "other programs that use the graphics card, start ComfyUI with --cpu-vae, or connect a smaller image."
            ) from error

    def _in_tiles_or_whole(self, pixels: Tensor) -> Encoded:
        _, height, width, channels = pixels.shape
        least = ACTIVATIONS_PER_PIXEL * height * width * self.vae.vae_dtype.itemsize
        if least > self.there:
            return Encoded(self.vae.encode_tiled(pixels), Shortage(least, self.there))
        wanted = self.vae.memory_used_encode((1, channels, height, width), self.vae.vae_dtype)
        watched = _Watched(self.vae, int(wanted), self._free if self._told else lambda: None)
        latent = watched.vae.encode(pixels)
        return Encoded(latent, watched.shortage, by_chance=watched.shortage is not None)

    def _free(self) -> int:
        return int(self.vae.patcher.get_free_memory(self.vae.device))


class _Watched:
    """A VAE that tells when the host, out of memory, encodes in tiles by itself, which its result does not show.

    Attributes:
        vae: the same in all else; the one given is left as it is.
        shortage: what the host wanted and what was there when it gave up on the whole.
    """

    def __init__(self, vae: VAE, wanted: int, free: Callable[[], int | None]) -> None:
        self.vae = copy.copy(vae)
        self.shortage: Shortage | None = None
        in_tiles = vae.encode_tiled_

        def telling(*args: Any, **kwargs: Any) -> Tensor:
            self.shortage = Shortage(wanted, free())
            return in_tiles(*args, **kwargs)

        self.vae.encode_tiled_ = telling
