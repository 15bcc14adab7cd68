"""Klein 9B Text Encode: a prompt and what it should not show, read as Klein was trained to read them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from ..klein.prompt import MAX_TOKENS
from .host.kept_prompts import EncodedPrompt, encode_prompt
from .host.klein_encoder import Precision, WrongEncoder
from .host.loaded_klein import loaded_klein_of
from .host.newer_host import needs_host
from .host.prompt_text import not_read, with_prompt_text
from .host.text import show_text
from .host.zeroed import zeroed

if TYPE_CHECKING:
    from comfy.sd import CLIP

log = logging.getLogger(__name__)

BASE = "base"


class Klein9BTextEncode(io.ComfyNode):
    """Encodes prompts with Qwen3-8B, each once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BTextEncode",
            display_name="Klein 9B Text Encode",
            category="Klein 9B",
            description=(
                "Turns the prompt into conditioning, exactly as CLIP Text Encode does but with the 27 layers of "
                "Qwen3-8B that Klein reads, not all 36. A prompt is encoded once: the next time, after a restart "
                "too, it is read from disk and the text encoder is not even loaded."
            ),
            search_aliases=["clip text encode", "prompt", "text", "negative prompt", "qwen3", "klein prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="Qwen3-8B, from Klein 9B Loader. Its weights are read when needed."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows, in plain sentences, up to 512 tokens. Speak of reference images "
                    "as image 1, image 2. Weights as in (word:1.2) do nothing.",
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="What it should not show. Read where cfg is above 1, so by the base model, and by Klein 9B "
                    "Negative.",
                ),
                io.Combo.Input(
                    "precision",
                    options=[precision.value for precision in Precision],
                    default=Precision.FP32.value,
                    optional=True,
                    tooltip="fp32: as ComfyUI computes, the same conditioning to the last bit. bf16: as Black Forest "
                    "Labs runs it, faster on cards since RTX 30 and different at the third digit.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For Klein 9B References or a guider."),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The negative prompt; where it is empty and the model distilled, the prompt zeroed out.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @needs_host()
    def execute(
        cls, clip: CLIP, prompt: str, negative_prompt: str = "", precision: str = Precision.FP32.value
    ) -> io.NodeOutput:
        if clip is None:
            raise WrongEncoder("No text encoder came in: connect the clip of Klein 9B Loader.")
        positive = encode_prompt(clip, prompt, Precision(precision))
        if negative_prompt.strip() or not _runs_at_cfg_1(clip):
            encoded = encode_prompt(clip, negative_prompt, Precision(precision))
            negative, both = encoded.conditioning, {"prompt": positive, "negative prompt": encoded}
        else:
            negative, both = zeroed(positive.conditioning), {"prompt": positive}
        cls._say(both, _warnings(clip, prompt, negative_prompt, both))
        return io.NodeOutput(with_prompt_text(positive.conditioning, prompt), negative)

    @classmethod
    def _say(cls, encoded: dict[str, EncodedPrompt], warnings: list[str]) -> None:
        for warning in warnings:
            log.warning("Klein 9B Text Encode: %s", warning)
        show_text(cls, "\n".join([*(_outcome(name, one) for name, one in encoded.items()), *warnings]))


def _runs_at_cfg_1(clip: CLIP) -> bool:
    """Whether the model is known to be distilled. A negative that turns out not to be read costs one encoding, one
    that is read and was zeroed costs the picture."""
    loaded = loaded_klein_of(clip)
    return loaded is not None and loaded.variant.name != BASE and not loaded.variant.assumed


def _outcome(name: str, encoded: EncodedPrompt) -> str:
    tokens = f"{min(encoded.length.tokens, MAX_TOKENS)} tokens"
    return f"{name}: kept from before ({encoded.kept})" if encoded.kept else f"{name}: encoded, {tokens}"


def _warnings(clip: CLIP, prompt: str, negative_prompt: str, encoded: dict[str, EncodedPrompt]) -> list[str]:
    lengths = {name: one.length for name, one in encoded.items()}
    return [*not_read(f"{prompt}\n{negative_prompt}", lengths), *_about_negative(clip, negative_prompt)]


def _about_negative(clip: CLIP, negative_prompt: str) -> list[str]:
    if not negative_prompt.strip():
        return []
    loaded = loaded_klein_of(clip)
    if loaded is None:
        return ["The negative prompt is read only where cfg is above 1, so by the base model."]
    if loaded.variant.name == BASE:
        return []
    return [
        f"The negative prompt is not read at cfg 1, at which klein-9b {loaded.variant.name} "
        f"({loaded.variant.source}) runs, except by Klein 9B Negative. Connect it there, or say in the prompt what you "
        "want instead."
    ]
