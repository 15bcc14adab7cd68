"""Klein 9B References: photographs in, conditioning and an empty latent out."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from ..klein.framing import (
    ASPECT_RATIOS,
    GRID,
    Fit,
    Size,
    enlarged,
    fit_image,
    output_size,
    resample,
    snap,
)
from ..klein.latent import LATENT_CHANNELS
from ..klein.prompt import MOST_IMAGES
from .host.fits import refuse_references
from .host.frame import Frame, FramedBatch, FramedImage, FrameSocket
from .host.newer_host import MissingFromHost, needs_host
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
ENLARGE = "enlarge_input_image"
CUSTOM = "custom"
_NOTHING_FITTED = "Klein 9B References has no image 1 to hand out: connect one, or disconnect fitted_image."

_MOST_ENLARGED = 3.9  # below the area that FLUX.2 takes of one reference, 2024x2024
_SIDE = {"default": 1024, "min": 64, "max": 4096, "step": GRID}


def _aspect_ratio_options() -> list[io.DynamicCombo.Option]:
    width = io.Int.Input("width", tooltip="Width of the new picture in pixels.", **_SIDE)
    height = io.Int.Input("height", tooltip="Height of the new picture in pixels.", **_SIDE)
    by_area = [io.DynamicCombo.Option(key, [_megapixels(4.0)]) for key in ASPECT_RATIOS]
    return [
        io.DynamicCombo.Option(MATCH, []),
        io.DynamicCombo.Option(ENLARGE, [_megapixels(_MOST_ENLARGED)]),
        *by_area,
        io.DynamicCombo.Option(CUSTOM, [width, height]),
    ]


def _megapixels(most: float) -> io.Input:
    return io.Float.Input(
        "megapixels",
        default=1.0,
        min=0.06,
        max=most,
        step=0.01,
        tooltip="Area of the new picture in units of 1024x1024 pixels.",
    )


class Klein9BReferences(io.ComfyNode):
    """Joins reference images to the prompt and sizes the new picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BReferences",
            display_name="Klein 9B References",
            category="Klein 9B",
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
                io.Conditioning.Input(
                    "positive", tooltip="The prompt, from Klein 9B Text Encode, Klein 9B Cast or CLIP Text Encode."
                ),
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
                    default=Fit.CROP.value,
                    tooltip="How an image gets sides that are multiples of 16. crop: as Black Forest Labs does, at "
                    "most 1024x1024 pixels each (2024x2024 for a single one), never enlarged, edges cropped by "
                    "up to 15 pixels. pad: the same, but edges are repeated instead of cropped. megapixel: "
                    "scaled up or down to one megapixel as the official templates do.",
                ),
                io.DynamicCombo.Input(
                    "aspect_ratio",
                    options=_aspect_ratio_options(),
                    tooltip="Shape of the new picture. match_input_image: exactly the grid of image 1, so that "
                    "edits do not shift; 1:1 when there is no image. enlarge_input_image: a small image 1 is "
                    "enlarged first, and the edit lies exactly over the enlarged one.",
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
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="How many pictures are made at once of the same prompt and images, each with noise of its "
                    "own. The first is the one that a batch of 1 gives.",
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
                io.Image.Output(
                    display_name="fitted_image",
                    tooltip="Image 1 on the grid of its reference, as the VAE gets it: for VAE Encode where an edit "
                    "starts from the photograph, and for masks on that grid.",
                ),
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
        negative: list | None = None,
        images: dict[str, torch.Tensor | None] | None = None,
        image_1_batch: str = REFERENCES,
        batch_size: int = 1,
    ) -> io.NodeOutput:
        connected = frames_in_order(images or {})
        pictures = _pictures(connected, image_1_batch)
        _refuse_two_batches(pictures, batch_size)
        framed = _framed(connected, Fit(fit), aspect_ratio, pictures)
        placements = [one.placement for one in framed[pictures - 1 :]]
        refuse_references([placement.grid for placement in placements])
        fitted = [fit_image(one.image, one.placement) for one in framed[:pictures]]
        latents, told = _encode_all(vae, connected, framed, fitted)
        latents = _by_picture(latents, pictures)
        if negative is None:
            negative = zeroed(positive)
        latent = _empty_latent(_new_size(aspect_ratio, framed), pictures, batch_size)
        joined = with_placements(join(positive, latents), placements)
        other = with_placements(join(negative, latents), placements)
        cls._warn(missing_images(joined), told)
        return io.NodeOutput(joined, other, latent, _frame(framed, pictures), _fitted_output(fitted))

    @classmethod
    def _warn(cls, sentence: str, logged: list[str]) -> None:
        """Under the node, where an earlier run's warnings go when they no longer hold."""
        show_text(cls, "\n".join(filter(None, (sentence, *logged))))
        if sentence:
            log.warning("Klein 9B References: %s", sentence)


def _framed(
    connected: list[ConnectedImage], fit: Fit, aspect_ratio: dict[str, Any], pictures: int
) -> list[FramedImage]:
    """How each is fitted. Image 1 enlarged is at least as large as was asked for, whatever fit and the others say."""
    several = len(connected) > pictures
    firsts, others = connected[:pictures], connected[pictures:]
    if aspect_ratio["aspect_ratio"] == ENLARGE:
        large = [_enlarged(image, aspect_ratio["megapixels"]) for image in firsts]
        framed = frame_all(large, Fit.CROP if fit is Fit.MEGAPIXEL else fit, several=False)
    else:
        framed = frame_all(firsts, fit, several=several)
    return framed + frame_all(others, fit, several=several)


def _enlarged(image: ConnectedImage, megapixels: float) -> ConnectedImage:
    now = Size(*image.pixels.shape[1::-1])
    new = enlarged(now, megapixels)
    return image if new == now else replace(image, pixels=resample(image.pixels, new))


def _encode_all(
    vae: VAE, connected: list[ConnectedImage], framed: list[FramedImage], fitted: list[np.ndarray]
) -> tuple[list[torch.Tensor], list[str]]:
    """fitted: the first of them on their grid; the others are fitted one by one."""
    if not framed:
        return [], []
    others = (fit_image(one.image, one.placement) for one in framed[len(fitted) :])
    return encode_all(vae, zip((image.label for image in connected), chain(fitted, others)))


def _new_size(aspect_ratio: dict[str, Any], framed: list[FramedImage]) -> Size:
    choice = aspect_ratio["aspect_ratio"]
    if choice == CUSTOM:
        return snap(aspect_ratio["width"], aspect_ratio["height"])
    if choice in (MATCH, ENLARGE):
        return framed[0].placement.grid if framed else output_size("1:1", aspect_ratio.get("megapixels", 1.0))
    return output_size(choice, aspect_ratio["megapixels"])


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


def _fitted_output(fitted: list[np.ndarray]) -> Any:
    """IMAGE (n, height, width, 3), sharing the memory of a single one; without image 1 what is connected is told so."""
    if fitted:
        return torch.from_numpy(fitted[0])[None] if len(fitted) == 1 else torch.from_numpy(np.stack(fitted))
    try:
        return _blocked()
    except MissingFromHost:  # a host without it says in its own words that nothing came
        return None


@needs_host()
def _blocked() -> Any:
    import comfy_execution.graph_utils

    return comfy_execution.graph_utils.ExecutionBlocker(_NOTHING_FITTED)


def _refuse_two_batches(pictures: int, batch_size: int) -> None:
    """One picture of each photograph, or several of one.

    Raises:
        ValueError: several of several.
    """
    if pictures > 1 and batch_size > 1:
        raise ValueError(
            f"batch_size is {batch_size}, but image_1_batch makes a picture of each of the {pictures} photographs. Set "
            "batch_size to 1, and change the seed for other pictures."
        )


def _empty_latent(size: Size, pictures: int, batch_size: int) -> dict[str, Any]:
    import comfy.model_management

    shape = (max(pictures, batch_size), LATENT_CHANNELS, size.height // GRID, size.width // GRID)
    samples = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    # The host draws the noise of each picture at its index: photographs all at 0, as each alone would have it.
    return {"samples": samples} | ({"batch_index": [0] * pictures} if pictures > 1 else {})
