"""Klein 9B References: photographs in, conditioning and an empty latent out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.v0_0_2 import io

from ..klein.framing import (
    ASPECT_RATIOS,
    GRID,
    Fit,
    Size,
    UnusableImage,
    fit_image,
    output_size,
    place_image,
    snap,
)
from ..klein.latent import LATENT_CHANNELS
from ..klein.prompt import MOST_IMAGES
from .host.fits import refuse_references
from .host.frame import FramedImage, FrameSocket
from .host.newer_host import needs_host
from .host.pictures import ConnectedImage, frames_in_order
from .host.prompt_text import missing_images
from .host.text import show_text
from .host.vae_encode import encode_pictures
from .host.zeroed import zeroed

if TYPE_CHECKING:
    from comfy.sd import VAE

log = logging.getLogger(__name__)

MATCH = "match_input_image"
CUSTOM = "custom"

_SIDE = {"default": 1024, "min": 64, "max": 4096, "step": GRID}


def _aspect_ratio_options() -> list[io.DynamicCombo.Option]:
    width = io.Int.Input("width", tooltip="Width of the new picture in pixels.", **_SIDE)
    height = io.Int.Input("height", tooltip="Height of the new picture in pixels.", **_SIDE)
    plain = [io.DynamicCombo.Option(key, []) for key in (MATCH, *ASPECT_RATIOS)]
    return [*plain, io.DynamicCombo.Option(CUSTOM, [width, height])]


class Klein9BReferences(io.ComfyNode):
    """Joins reference images to the prompt and sizes the new picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BReferences",
            display_name="Klein 9B References",
            category="Klein 9B/Conditioning",
            description=(
                "Gives the prompt its reference images, in order: the prompt can speak of image 1, image 2 and "
                "so on. Sizes them as FLUX.2 was trained, and makes the empty latent for the new picture. "
                "Without images it is plain text to image."
            ),
            search_aliases=[
                "reference image",
                "multi reference",
                "image edit",
                "flux 2 klein edit",
                "reference latent",
                "empty flux 2 latent",
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, from CLIP Text Encode."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt. Read only where cfg is above 1, so by the base model. "
                    "Left empty, it is the prompt zeroed out.",
                ),
                io.Vae.Input("vae", tooltip="The FLUX.2 VAE, from Klein 9B Loader. Encodes each image once."),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input(
                            "image",
                            optional=True,
                            tooltip="A reference. Every frame of a batch is a reference of its own.",
                        ),
                        names=[f"image_{i}" for i in range(1, MOST_IMAGES + 1)],
                        min=0,
                    ),
                    optional=True,
                    tooltip="Reference images; order is meaning. A new socket appears as you connect one.",
                ),
                io.Combo.Input(
                    "fit",
                    options=[fit.value for fit in Fit],
                    default=Fit.BFL.value,
                    tooltip="How an image gets sides that are multiples of 16. bfl: as Black Forest Labs does, at "
                    "most 1024x1024 pixels each (2024x2024 for a single one), never enlarged, edges cropped by "
                    "up to 15 pixels. pad: the same, but edges are repeated instead of cropped. megapixel: "
                    "scaled up or down to one megapixel as the official templates do.",
                ),
                io.DynamicCombo.Input(
                    "aspect_ratio",
                    options=_aspect_ratio_options(),
                    tooltip="Shape of the new picture. match_input_image: exactly the grid of image 1, so that "
                    "edits do not shift; 1:1 when there is no image.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.06,
                    max=4.0,
                    step=0.01,
                    tooltip="Area of the new picture in units of 1024x1024 pixels, where aspect_ratio is a ratio.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the references joined."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The negative prompt with the same references."
                ),
                io.Latent.Output(
                    display_name="latent", tooltip="Empty latent of the new picture's size, for the sampler."
                ),
                FrameSocket.Output(display_name="frame", tooltip="How image 1 was fitted, for Klein 9B Restore."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @needs_host()
    def execute(
        cls,
        positive: list,
        vae: VAE,
        fit: str,
        aspect_ratio: dict[str, Any],
        megapixels: float,
        negative: list | None = None,
        images: dict[str, torch.Tensor | None] | None = None,
    ) -> io.NodeOutput:
        connected = frames_in_order(images or {})
        framed = _frame_all(connected, Fit(fit))
        refuse_references([one.placement.grid for one in framed])
        latents, told = _encode_all(vae, connected, framed)
        if negative is None:
            negative = zeroed(positive)
        size = _new_size(aspect_ratio, megapixels, framed)
        joined = _join(positive, latents)
        cls._warn(missing_images(joined), told)
        return io.NodeOutput(joined, _join(negative, latents), _empty_latent(size), next(iter(framed), None))

    @classmethod
    def _warn(cls, sentence: str, logged: list[str]) -> None:
        """Under the node, where an earlier run's warnings go when they no longer hold."""
        show_text(cls, "\n".join(filter(None, (sentence, *logged))))
        if sentence:
            log.warning("Klein 9B References: %s", sentence)


def _frame_all(images: list[ConnectedImage], fit: Fit) -> list[FramedImage]:
    return [_frame_one(image, fit, several=len(images) > 1) for image in images]


def _frame_one(image: ConnectedImage, fit: Fit, *, several: bool) -> FramedImage:
    height, width, _ = image.pixels.shape
    try:
        return FramedImage(image.pixels, place_image(Size(width, height), fit, several=several))
    except UnusableImage as error:
        raise UnusableImage(f"{image.label}: {error}") from None


def _encode_all(
    vae: VAE, connected: list[ConnectedImage], framed: list[FramedImage]
) -> tuple[list[torch.Tensor], list[str]]:
    if not framed:
        return [], []
    _require_flux2(vae)
    pixels = (fit_image(one.image, one.placement) for one in framed)
    return encode_pictures(vae, zip((image.label for image in connected), pixels))


def _require_flux2(vae: VAE) -> None:
    if vae.latent_channels != LATENT_CHANNELS:
        raise ValueError(
            f"This VAE makes latents of {vae.latent_channels} channels; Klein needs FLUX.2's, with "
            f"{LATENT_CHANNELS}. Connect the VAE of Klein 9B Loader."
        )


def _new_size(aspect_ratio: dict[str, Any], megapixels: float, framed: list[FramedImage]) -> Size:
    choice = aspect_ratio["aspect_ratio"]
    if choice == CUSTOM:
        return snap(aspect_ratio["width"], aspect_ratio["height"])
    if choice != MATCH:
        return output_size(choice, megapixels)
    return framed[0].placement.grid if framed else output_size("1:1", megapixels)


def _join(conditioning: list, latents: list[torch.Tensor]) -> list:
    if not latents:
        return conditioning
    import node_helpers

    return node_helpers.conditioning_set_values(conditioning, {"reference_latents": latents}, append=True)


def _empty_latent(size: Size) -> dict[str, torch.Tensor]:
    import comfy.model_management

    shape = (1, LATENT_CHANNELS, size.height // GRID, size.width // GRID)
    return {"samples": torch.zeros(shape, device=comfy.model_management.intermediate_device())}
