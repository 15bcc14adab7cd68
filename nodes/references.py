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
    fit_image,
    output_size,
    snap,
)
from ..klein.latent import LATENT_CHANNELS
from ..klein.prompt import MOST_IMAGES
from .host.fits import refuse_references
from .host.frame import Frame, FramedBatch, FramedImage, FrameSocket
from .host.newer_host import needs_host
from .host.pictures import ConnectedImage, frames_in_order
from .host.prompt_text import missing_images
from .host.reference_masks import with_placements
from .host.reference_pictures import encode_all, frame_all, join
from .host.text import show_text
from .host.zeroed import zeroed

if TYPE_CHECKING:
    from comfy.sd import VAE

log = logging.getLogger(__name__)

REFERENCES = "references"
PHOTOGRAPHS = "photographs"
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
                io.Combo.Input(
                    "image_1_batch",
                    options=[REFERENCES, PHOTOGRAPHS],
                    default=REFERENCES,
                    optional=True,
                    tooltip="What a batch connected to image 1 is. references: every frame is a reference of one "
                    "picture. photographs: every frame is edited to a picture of its own, the one that it would give "
                    "alone with the same seed; the images behind it are shared by all.",
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
        image_1_batch: str = REFERENCES,
    ) -> io.NodeOutput:
        connected = frames_in_order(images or {})
        pictures = _pictures(connected, image_1_batch)
        framed = frame_all(connected, Fit(fit), several=len(connected) > pictures)
        placements = [one.placement for one in framed[pictures - 1 :]]
        refuse_references([placement.grid for placement in placements])
        latents, told = _encode_all(vae, connected, framed)
        latents = _by_picture(latents, pictures)
        if negative is None:
            negative = zeroed(positive)
        size = _new_size(aspect_ratio, megapixels, framed)
        joined = with_placements(join(positive, latents), placements)
        other = with_placements(join(negative, latents), placements)
        cls._warn(missing_images(joined), told)
        return io.NodeOutput(joined, other, _empty_latent(size, pictures), _frame(framed, pictures))

    @classmethod
    def _warn(cls, sentence: str, logged: list[str]) -> None:
        """Under the node, where an earlier run's warnings go when they no longer hold."""
        show_text(cls, "\n".join(filter(None, (sentence, *logged))))
        if sentence:
            log.warning("Klein 9B References: %s", sentence)


def _encode_all(
    vae: VAE, connected: list[ConnectedImage], framed: list[FramedImage]
) -> tuple[list[torch.Tensor], list[str]]:
    if not framed:
        return [], []
    pixels = (fit_image(one.image, one.placement) for one in framed)
    return encode_all(vae, zip((image.label for image in connected), pixels))


def _new_size(aspect_ratio: dict[str, Any], megapixels: float, framed: list[FramedImage]) -> Size:
    choice = aspect_ratio["aspect_ratio"]
    if choice == CUSTOM:
        return snap(aspect_ratio["width"], aspect_ratio["height"])
    if choice != MATCH:
        return output_size(choice, megapixels)
    return framed[0].placement.grid if framed else output_size("1:1", megapixels)


def _pictures(connected: list[ConnectedImage], image_1_batch: str) -> int:
    """How many of the first frames are edited, each to a picture of its own."""
    if image_1_batch == REFERENCES or not connected:
        return 1
    return sum(image.socket == connected[0].socket for image in connected)


def _by_picture(latents: list[torch.Tensor], pictures: int) -> list[torch.Tensor]:
    """The photographs as the rows of one reference; the host gives the others to every row."""
    return latents if pictures == 1 else [torch.cat(latents[:pictures]), *latents[pictures:]]


def _frame(framed: list[FramedImage], pictures: int) -> Frame | None:
    return FramedBatch(tuple(framed[:pictures])) if pictures > 1 else next(iter(framed), None)


def _empty_latent(size: Size, pictures: int) -> dict[str, Any]:
    import comfy.model_management

    shape = (pictures, LATENT_CHANNELS, size.height // GRID, size.width // GRID)
    samples = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    # The host draws the noise of each picture at its index: all at 0, as each alone would have it.
    return {"samples": samples} | ({"batch_index": [0] * pictures} if pictures > 1 else {})
