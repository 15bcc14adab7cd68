"""Klein 9B Negative: a negative prompt at a cfg of 1."""

from __future__ import annotations

import torch
from comfy_api.v0_0_2 import io

from ..klein.influence import AttentionSettings, Negative
from .host.attention_settings import with_settings
from .host.newer_host import needs_host

NO_PROMPT = (
    "The negative conditioning is empty (zeroed out), so there is nothing to steer away from. Write a negative_prompt "
    "in Klein 9B Text Encode, or take Klein 9B Negative out."
)
SEVERAL = (
    "The negative conditioning is several prompts, but one is expected. Write all that the picture should not show in "
    "one negative_prompt of Klein 9B Text Encode."
)
ANOTHER_ENCODER = (
    "The negative prompt has {theirs} channels and the positive one {ours}, so they come from different text encoders. "
    "Encode both with Klein 9B Text Encode."
)


class Klein9BNegative(io.ComfyNode):
    """Puts a negative prompt on the positive conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BNegative",
            display_name="Klein 9B Negative",
            category="Klein 9B/More",
            description=(
                "Makes a negative prompt work at a cfg of 1, where it is otherwise not read: the picture attends to "
                "both prompts and is steered away from the negative one (normalized attention guidance). Costs 3 to "
                "13 % more, not a second run. For the distilled and KV models."
            ),
            search_aliases=["nag", "normalized attention guidance", "negative at cfg 1", "avoid"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt, with its references or before them."),
                io.Conditioning.Input(
                    "negative", tooltip="What the picture should not show, from Klein 9B Text Encode."
                ),
                io.Float.Input(
                    "negative_strength",
                    default=5.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How hard the picture is steered away. 1: not at all. ComfyUI's own node begins at 5.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="For a guider with cfg 1; its negative input does nothing there."
                )
            ],
        )

    @classmethod
    @needs_host()
    def execute(cls, positive: list, negative: list, negative_strength: float) -> io.NodeOutput:
        embeds = _embeds(positive, negative)
        if negative_strength == 1.0:
            return io.NodeOutput(positive)
        (steered,) = with_settings(AttentionSettings(negative=Negative(embeds, negative_strength)), positive)
        return io.NodeOutput(steered)


def _embeds(positive: list, negative: list) -> torch.Tensor:
    """(1, tokens, channels).

    Raises:
        ValueError: it is not one prompt of the same text encoder, or says nothing.
    """
    if len(negative) != 1 or len(negative[0][0]) != 1:
        raise ValueError(SEVERAL)
    embeds: torch.Tensor = negative[0][0]
    ours, theirs = positive[0][0].shape[-1], embeds.shape[-1]
    if ours != theirs:
        raise ValueError(ANOTHER_ENCODER.format(ours=ours, theirs=theirs))
    if not embeds.any():
        raise ValueError(NO_PROMPT)
    return embeds
