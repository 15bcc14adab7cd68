"""References on their way from connected images to conditioning: fitted, encoded, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...klein.framing import Fit, Size, UnusableImage, place_image
from ...klein.latent import LATENT_CHANNELS
from .frame import FramedImage
from .pictures import ConnectedImage
from .vae_encode import encode_pictures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from comfy.sd import VAE


def frame_all(images: list[ConnectedImage], fit: Fit, *, several: bool) -> list[FramedImage]:
    """How each is fitted.

    Args:
        several: there is more than one reference.

    Raises:
        UnusableImage: as `place_image`; the message begins with the image's label.
    """
    return [_frame_one(image, fit, several=several) for image in images]


def _frame_one(image: ConnectedImage, fit: Fit, *, several: bool) -> FramedImage:
    height, width, _ = image.pixels.shape
    try:
        return FramedImage(image.pixels, place_image(Size(width, height), fit, several=several))
    except UnusableImage as error:
        raise UnusableImage(f"{image.label}: {error}") from None


def encode_all(vae: VAE, pictures: Iterable[tuple[str, np.ndarray]]) -> tuple[list[torch.Tensor], list[str]]:
    """As `encode_pictures`.

    Raises:
        ValueError: another model's VAE.
    """
    if vae.latent_channels != LATENT_CHANNELS:
        raise ValueError(
            f"This VAE makes latents of {vae.latent_channels} channels; Klein needs FLUX.2's, with "
            f"{LATENT_CHANNELS}. Connect the VAE of Klein 9B Loader."
        )
    return encode_pictures(vae, pictures)


def join(conditioning: list, latents: list[torch.Tensor]) -> list:
    """The conditioning with the references behind those it has."""
    if not latents:
        return conditioning
    import node_helpers

    return node_helpers.conditioning_set_values(conditioning, {"reference_latents": latents}, append=True)


def references_on(conditioning: list) -> int:
    """How many it has."""
    return max((len(beside.get("reference_latents") or ()) for _, beside in conditioning), default=0)


def reference_rows(conds: dict[str, list[dict[str, Any]]]) -> int:
    """How many pictures of a batch have references of their own; 1 where all share them."""
    each = (cond.get("reference_latents") or () for kind in conds.values() for cond in kind or ())
    return max((latent.shape[0] for latents in each for latent in latents), default=1)
