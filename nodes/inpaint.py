"""Klein 9B Inpaint: a part of a photograph painted anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from ..klein.framing import MEGAPIXEL, Fit, Placement, Size, UnusableImage, fit_image
from ..klein.influence import Influence
from ..klein.inpaint import Area, Cut, Inpainting, Sides, plan_inpainting
from ..klein.mask import united_mask
from ..klein.prompt import MOST_IMAGES
from .host.attention_settings import settings_on, with_influence
from .host.fits import refuse_references
from .host.frame import FramedImage, FrameSocket, PaintedImage
from .host.latent_strength import with_strength
from .host.newer_host import needs_host
from .host.pictures import ConnectedImage, frames_in_order, frames_of
from .host.prompt_text import missing_images
from .host.reference_masks import with_placements
from .host.reference_pictures import encode_all, frame_all, join, references_on
from .host.text import show_text
from .host.zeroed import zeroed

if TYPE_CHECKING:
    from comfy.sd import VAE

log = logging.getLogger(__name__)

AROUND = "around the mask"
WHOLE = "whole picture"
NOTHING_SEEN = (
    "Nothing of the photograph is left to be seen: the mask covers all of what the model works on. Mark less, give it "
    "more context, or set show_source."
)
OTHER_PLACES = (
    "The places of Klein 9B Cast are those of the window around the mask, not of the photograph. Choose whole picture "
    "where they should be the photograph's."
)
STRENGTH = "Strength {:g}: connect the latent to Klein 9B Scheduler, which multiplies its denoise by it."

_SIDE: dict[str, Any] = {"default": 0, "min": 0, "max": 4096}


def _area_options() -> list[io.DynamicCombo.Option]:
    context = io.Float.Input(
        "context",
        default=0.5,
        min=0.0,
        max=4.0,
        step=0.05,
        tooltip="How much of the surroundings the model sees, at each side, as a part of the mask's longer side. At "
        "least 64 pixels, and the feather.",
    )
    return [io.DynamicCombo.Option(AROUND, [context]), io.DynamicCombo.Option(WHOLE, [])]


class Klein9BInpaint(io.ComfyNode):
    """Joins a photograph to the prompt without what its mask covers, and prepares the latent to paint that anew."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BInpaint",
            display_name="Klein 9B Inpaint",
            category="Klein 9B",
            description=(
                "Paints the marked part of a photograph anew, or beyond its sides. The photograph is image 1, without "
                "what the mask covers, so that nothing of it shows through. A small mask is cut out with its "
                "surroundings and given all of the model's resolution; Klein 9B Restore puts it back and leaves every "
                "other pixel as it was."
            ),
            search_aliases=[
                "inpaint",
                "outpaint",
                "generative fill",
                "remove object",
                "replace object",
                "crop and stitch",
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt: what the marked part should show."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt. Read only where cfg is above 1, so by the base model. "
                    "Left empty, it is the prompt zeroed out.",
                ),
                io.Vae.Input("vae", tooltip="The FLUX.2 VAE, from Klein 9B Loader."),
                io.Image.Input("image", tooltip="The photograph. The prompt can call it image 1."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is painted anew. Of the photograph's size or shape; several masks count together. "
                    "May stay empty where a side is enlarged.",
                ),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input(
                            "image",
                            optional=True,
                            tooltip="A further reference. Every frame of a batch is a reference of its own.",
                        ),
                        names=[f"image_{i}" for i in range(2, MOST_IMAGES + 1)],
                        min=0,
                    ),
                    optional=True,
                    tooltip="Further reference images, from image 2; order is meaning.",
                ),
                io.DynamicCombo.Input(
                    "area",
                    options=_area_options(),
                    tooltip="What the model works on. around the mask: that part of the photograph, scaled to "
                    "megapixels, so that small things get detail. whole picture: all of it, scaled down where it is "
                    "larger than megapixels.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.06,
                    max=4.0,
                    step=0.01,
                    tooltip="The most that the model paints at once, in units of 1024x1024 pixels.",
                ),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=512,
                    tooltip="Over how many pixels of the photograph around the mask the new part fades into it. Beyond "
                    "them every pixel stays as it is.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 paints from pure noise. Below 1 starts from what is under the mask, with less noise. "
                    "Klein 9B Scheduler reads it off the latent and multiplies its denoise by it; other schedulers "
                    "do not know of it.",
                ),
                io.Boolean.Input(
                    "show_source",
                    default=False,
                    tooltip="Off: the model sees nothing of what is under the mask. On: it sees the whole photograph, "
                    "which helps to change something and keeps the old when it should go.",
                ),
                *[
                    io.Int.Input(side, tooltip=f"Pixels by which the photograph grows {where}.", **_SIDE)
                    for side, where in (
                        ("left", "to the left"),
                        ("top", "upwards"),
                        ("right", "to the right"),
                        ("bottom", "downwards"),
                    )
                ],
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the references joined."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The negative prompt with the same references."
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The encoded photograph with the mask, for Klein 9B Scheduler and the sampler.",
                ),
                FrameSocket.Output(
                    display_name="frame", tooltip="Where the painted part belongs, for Klein 9B Restore."
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
        image: torch.Tensor,
        area: dict[str, Any],
        megapixels: float,
        feather: int,
        strength: float,
        show_source: bool,
        left: int,
        top: int,
        right: int,
        bottom: int,
        negative: list | None = None,
        mask: torch.Tensor | None = None,
        images: dict[str, torch.Tensor | None] | None = None,
    ) -> io.NodeOutput:
        sides = Sides(left, top, right, bottom)
        planned = _plan(image, mask, _area(area, megapixels), feather, sides)
        others = frames_in_order(images or {})
        framed = frame_all(others, Fit.CROP, several=True)
        refuse_references([planned.grid, *(one.placement.grid for one in framed)])
        pictures = [*_photographs(planned, show_source, strength), *_fitted(others, framed)]
        (samples, *latents), told = encode_all(vae, pictures)
        covered = torch.from_numpy(planned.coverage)
        joined = _joined(positive, negative, latents, [planned.cut(sides), *(one.placement for one in framed)])
        hidden = None if show_source else covered > 0
        cls._tell([missing_images(joined[0]), _nothing_seen(hidden), _other_places(positive, planned)], told, strength)
        if hidden is not None:
            joined = _without(hidden, joined, len(latents))
        latent = {"samples": samples, "noise_mask": (covered if hidden is None else hidden.float())[None, None]}
        return io.NodeOutput(*joined, with_strength(latent, strength), PaintedImage(planned))

    @classmethod
    def _tell(cls, warnings: list[str], logged: list[str], strength: float) -> None:
        """Under the node, where what an earlier run said goes when it no longer holds."""
        warnings = [sentence for sentence in warnings if sentence]
        note = [STRENGTH.format(strength)] if strength < 1 else []
        show_text(cls, "\n".join([*warnings, *logged, *note]))
        for sentence in warnings:
            log.warning("Klein 9B Inpaint: %s", sentence)


def _area(area: dict[str, Any], megapixels: float) -> Area:
    return Area(int(megapixels * MEGAPIXEL), area["context"] if area["area"] == AROUND else None)


def _plan(image: torch.Tensor, mask: torch.Tensor | None, area: Area, feather: int, sides: Sides) -> Inpainting:
    photographs = frames_of("image", image)
    if len(photographs) > 1:
        raise UnusableImage(
            f"image: Expected one photograph, got a batch of {len(photographs)}. Connect one frame of it; pictures to "
            "be seen beside it go to image_2 and on."
        )
    try:
        pixels = photographs[0].pixels
        return plan_inpainting(pixels, _mask(mask, pixels), area, feather=feather, sides=sides)
    except UnusableImage as error:
        raise UnusableImage(f"image: {error}") from None


def _mask(mask: torch.Tensor | None, pixels: np.ndarray) -> np.ndarray | None:
    if mask is None:
        return None
    height, width, _ = pixels.shape
    masks = mask[None] if mask.ndim == 2 else mask
    return united_mask(masks.detach().cpu().float().numpy(), Size(width, height))


def _photographs(planned: Inpainting, show_source: bool, strength: float) -> list[tuple[str, np.ndarray]]:
    """What sampling starts from and what the model sees. From pure noise it starts from what the model sees.

    Otherwise the surroundings of the mask would hold what the VAE spreads of the hidden pixels.
    """
    seen = planned.picture if show_source else planned.visible_picture
    start = planned.picture if strength < 1 else seen
    return [("image", start), ("image", seen)]


def _fitted(others: list[ConnectedImage], framed: list[FramedImage]) -> Iterator[tuple[str, np.ndarray]]:
    return ((image.label, fit_image(one.image, one.placement)) for image, one in zip(others, framed))


def _joined(
    positive: list, negative: list | None, latents: list[torch.Tensor], placements: list[Placement | Cut]
) -> list[list]:
    if negative is None:
        negative = zeroed(positive)
    return [with_placements(join(each, latents), placements) for each in (positive, negative)]


def _without(hidden: torch.Tensor, joined: list[list], latents: int) -> list[list]:
    """In each the photograph is the first of those that were joined, behind what it had."""
    number, other = (references_on(each) - latents + 1 for each in joined)
    influence = Influence(kept=~hidden)
    if number == other:
        return with_influence(number, influence, *joined)
    return [with_influence(n, influence, each)[0] for n, each in zip((number, other), joined)]


def _nothing_seen(hidden: torch.Tensor | None) -> str:
    return NOTHING_SEEN if hidden is not None and bool(hidden.all()) else ""


def _other_places(positive: list, planned: Inpainting) -> str:
    height, width, _ = planned.canvas.shape
    placed = any(settings.casts for settings in settings_on(positive))
    return OTHER_PLACES if placed and planned.window.size != Size(width, height) else ""
