"""Klein 9B Cast: who is where, in the prompt's own lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from comfy_api.v0_0_2 import io

from ..klein.attention_plan import unclaimed
from ..klein.cast_prompt import BOXES, CastLine, cast_lines
from ..klein.influence import AttentionSettings, Cast, Mask, Region, UnusableRegion
from .host.attention_settings import with_settings
from .host.kept_prompts import encode_prompt
from .host.klein_encoder import Precision
from .host.masks import one_mask
from .host.newer_host import needs_host
from .host.prompt_text import not_read, with_prompt_text
from .host.prompt_tokens import tokens_of_part
from .host.text import show_text

if TYPE_CHECKING:
    from comfy.sd import CLIP

log = logging.getLogger(__name__)

MOST_MASKS = 6
SAMPLES = 64
LEAST_SHARE = 0.005


class Klein9BCast(io.ComfyNode):
    """Encodes a prompt whose lines belong to parts of the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BCast",
            display_name="Klein 9B Cast",
            category="Klein 9B/More",
            description=(
                "Keeps people and things apart. A line of the prompt that begins with a place, such as "
                '"left: image 2 in a red coat", is read only by that part of the picture, and so are the images it '
                "speaks of. All other lines are read everywhere. Takes the place of Klein 9B Text Encode."
            ),
            search_aliases=["regional prompt", "region", "attention couple", "two people", "face swap", "area", "cast"],
            inputs=[
                io.Clip.Input("clip", tooltip="Qwen3-8B, from Klein 9B Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="Sentences for the whole picture, and a line for each part of it: place, colon, what is "
                    f"there. Places: {', '.join(BOXES)}, or mask 1, mask 2 for a painted one.",
                ),
                io.Autogrow.Input(
                    "masks",
                    template=io.Autogrow.TemplateNames(
                        io.Mask.Input(
                            "mask", optional=True, tooltip="A place painted in white, for lines with its number."
                        ),
                        names=[f"mask_{i}" for i in range(1, MOST_MASKS + 1)],
                        min=0,
                    ),
                    optional=True,
                    tooltip="Painted places, of the new picture's shape at any size.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="positive", tooltip="For Klein 9B References.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @needs_host()
    def execute(cls, clip: CLIP, prompt: str, masks: dict[str, torch.Tensor | None] | None = None) -> io.NodeOutput:
        lines = cast_lines(prompt)
        places = _places(lines, masks or {})
        encoded = encode_prompt(clip, prompt, Precision.FP32)
        positive = with_prompt_text(encoded.conditioning, prompt)
        tokens = positive[0][0].shape[1]
        casts = tuple(
            Cast((tokens_of_part(clip, prompt, line.start, line.stop),), tokens, line.images, place)
            for line, place in zip(lines, places)
        )
        warnings = [*not_read(prompt, {"prompt": encoded.length}), *_warnings(lines, casts, masks or {})]
        cls._say(lines, warnings)
        return io.NodeOutput(*with_settings(AttentionSettings(casts=casts), positive))

    @classmethod
    def _say(cls, lines: list[CastLine], warnings: list[str]) -> None:
        for warning in warnings:
            log.warning("Klein 9B Cast: %s", warning)
        show_text(cls, "\n".join([*map(_told, lines), *warnings]))


def _places(lines: list[CastLine], masks: dict[str, torch.Tensor | None]) -> list[Region]:
    return [BOXES[line.place] if isinstance(line.place, str) else _painted(line.place, masks) for line in lines]


def _painted(number: int, masks: dict[str, torch.Tensor | None]) -> Mask:
    if not 1 <= number <= MOST_MASKS:
        raise UnusableRegion(
            f"The prompt speaks of mask {number}, but masks are numbered 1 to {MOST_MASKS}. Write one of these, or a "
            "place such as left."
        )
    name = f"mask_{number}"
    mask = masks.get(name)
    if mask is None:
        connected = ", ".join(one for one, there in masks.items() if there is not None) or "none"
        raise UnusableRegion(
            f"The prompt speaks of mask {number}, but {name} is not connected (connected: {connected}). Connect it, or "
            "write a place such as left."
        )
    pixels = one_mask(name, mask)
    if not pixels.any():
        raise UnusableRegion(f"{name} is empty, so its line would be read nowhere. Paint it, or take the line out.")
    return Mask(pixels, name)


def _told(line: CastLine) -> str:
    place = line.place if isinstance(line.place, str) else f"mask {line.place}"
    images = ", ".join(f"image {number}" for number in sorted(line.images))
    return f"{place}: {images}" if images else f"{place}: words alone"


def _warnings(lines: list[CastLine], casts: tuple[Cast, ...], masks: dict[str, torch.Tensor | None]) -> list[str]:
    if not casts:
        return ["No line of the prompt begins with a place, as in left: image 2. All of it is read everywhere."]
    share = unclaimed(casts, *_grid(casts))
    nobodys = f"{share:.0%} of the picture is in no place, so only the other lines are read there."
    told = [nobodys] if share >= LEAST_SHARE else []
    used = {f"mask_{line.place}" for line in lines}
    spare = sorted(name for name, mask in masks.items() if mask is not None and name not in used)
    return told + [f"No line of the prompt speaks of {name.replace('_', ' ')}." for name in spare]


def _grid(casts: tuple[Cast, ...]) -> tuple[int, int]:
    """Of a painted place's shape, where there is one."""
    shapes = (cast.where.pixels.shape for cast in casts if isinstance(cast.where, Mask))
    height, width = next(shapes, (SAMPLES, SAMPLES))
    longest = max(height, width)
    return max(1, round(SAMPLES * height / longest)), max(1, round(SAMPLES * width / longest))
