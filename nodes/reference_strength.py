"""Klein 9B Reference Strength: how strongly, where and when one reference counts."""

from __future__ import annotations

import torch
from comfy_api.v0_0_2 import io

from ..klein.influence import Influence, Mask, ReferenceInterval
from ..klein.prompt import MOST_IMAGES
from .host.attention_settings import with_influence
from .host.masks import one_mask
from .host.newer_host import needs_host
from .host.reference_masks import over_the_picture, tokens_that_count
from .host.zeroed import zeroed


class Klein9BReferenceStrength(io.ComfyNode):
    """Changes the weight of one reference in attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BReferenceStrength",
            display_name="Klein 9B Reference Strength",
            category="Klein 9B/More",
            description=(
                "Sets how strongly one reference image counts, which parts of the new picture may look at it, which of "
                "its own pixels count, and for how long. It acts in attention, so it can strengthen as well as weaken. "
                "Use one for each image that is to be changed."
            ),
            search_aliases=[
                "reference weight",
                "reference strength",
                "image weight",
                "ip adapter weight",
                "reference mask",
                "attention mask",
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From Klein 9B References."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="From Klein 9B References. Read only where cfg is above 1; may stay empty otherwise.",
                ),
                io.Int.Input("image", default=1, min=1, max=MOST_IMAGES, tooltip="Which image: 1 for image 1."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=20.0,
                    step=0.05,
                    tooltip="1: as trained. 2: every pixel counts as if it were there twice. 0: as if the image were "
                    "not connected, with the others' numbers kept.",
                ),
                io.Mask.Input(
                    "picture_mask",
                    optional=True,
                    tooltip="Which parts of the new picture may look at the image: white may. Of that picture's shape.",
                ),
                io.Mask.Input(
                    "image_mask",
                    optional=True,
                    tooltip="Which pixels of the image count: white do, the others are not seen. Of the image's size.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="From where in the schedule the image counts, as in ControlNet nodes. 0: the first step.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Up to where. 1: the last step. Outside, the image is as if not connected.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the next of these, or a guider."),
                io.Conditioning.Output(display_name="negative", tooltip="Likewise."),
            ],
        )

    @classmethod
    @needs_host()
    def execute(
        cls,
        positive: list,
        image: int,
        strength: float,
        start: float,
        end: float,
        negative: list | None = None,
        picture_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        influence = Influence(
            strength,
            _where(positive, picture_mask),
            tokens_that_count(positive, image, image_mask),
            ReferenceInterval(start, end),
        )
        other = zeroed(positive) if negative is None else negative
        return io.NodeOutput(*with_influence(image, influence, positive, other))


def _where(positive: list, mask: torch.Tensor | None) -> Mask | None:
    """None where all of the picture may look."""
    if mask is None:
        return None
    pixels = over_the_picture(positive, one_mask("picture_mask", mask))
    if not pixels.any():
        raise ValueError(
            "The picture_mask is empty, so no part of the picture may look at the image. Paint where it may, or set "
            "strength to 0."
        )
    return None if bool((pixels == 1).all()) else Mask(pixels, "picture_mask")
