"""One prompt through the host's Qwen3-8B as Klein reads it: 27 layers, 512 tokens, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from ...klein.prompt import MAX_TOKENS, TextLength
from .newer_host import needs_host

if TYPE_CHECKING:
    from comfy.sd import CLIP

QWEN = "qwen3_8b"
_ENCODERS = {
    "qwen3_4b": "Qwen3-4B", "qwen3_06b": "Qwen3-0.6B", "mistral3_24b": "Mistral-Small-3", "t5xxl": "T5-XXL",
    "l": "CLIP-L", "g": "CLIP-G", "h": "CLIP-H", "umt5xxl": "UMT5-XXL", "llama": "Llama-3", "gemma2_2b": "Gemma-2",
}  # fmt: skip


class WrongEncoder(ValueError):
    """A CLIP that is not Klein 9B's; the message says what it is and what to connect."""


class NoBfloat16(ValueError):
    """The message says on which device, and what to choose."""


class Precision(str, Enum):
    """What the encoder's products are computed in. ComfyUI's is float32; Black Forest Labs runs bfloat16."""

    FP32 = "fp32"
    BF16 = "bf16"


@needs_host()
def klein_tokens(clip: CLIP, text: str) -> tuple[dict[str, Any], TextLength]:
    """The prompt in Qwen's chat template, the whole of it cut to 512 tokens from the right.

    Raises:
        WrongEncoder: the CLIP is not Qwen3-8B.
    """
    tokens = clip.tokenize(text)
    if not isinstance(tokens, dict) or QWEN not in tokens:
        raise WrongEncoder(_wrong(tokens))
    length = TextLength(max(map(len, tokens[QWEN]), default=0))
    return {**tokens, QWEN: [row[:MAX_TOKENS] for row in tokens[QWEN]]}, length


def encode_tokens(clip: CLIP, tokens: dict[str, Any], precision: Precision) -> list:
    """CONDITIONING as the host's own node makes it, its hooks and schedules included.

    Raises:
        NoBfloat16: it was asked for and the encoder's device has none.
    """
    if precision is Precision.BF16:
        _check_bfloat16(clip)
    with as_klein_reads(clip, precision):
        return clip.encode_from_tokens_scheduled(tokens)


@needs_host()
def _check_bfloat16(clip: CLIP) -> None:
    """A processor has it, whatever the host says of the machine's cards."""
    import comfy.model_management

    device = torch.device(clip.patcher.load_device)
    if device.type != "cpu" and not comfy.model_management.supports_cast(device, torch.bfloat16):
        raise NoBfloat16(
            f"The text encoder runs on {device}, which has no bfloat16, and precision is bf16: choose fp32."
        )


@contextmanager
def as_klein_reads(clip: CLIP, precision: Precision) -> Iterator[None]:
    """While it lasts, the encoder stops after the last layer that Klein reads, and computes in this precision."""
    reading = _reading(clip, precision)
    hooks = [
        reading.decoder.register_forward_pre_hook(reading.begin, with_kwargs=True),
        reading.decoder.register_forward_hook(reading.end, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        reading.end()


@dataclass
class _Reading:
    """The decoder is whole whenever the host loads, patches or moves it, and short only inside its own forward.

    Attributes:
        last: how many layers are read.
        whole: its layers and norm while they are not in their place.
    """

    decoder: Any
    last: int
    precision: Precision
    whole: tuple[Any, Any] | None = None

    def begin(self, decoder: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if len(decoder.layers) > self.last:
            self.whole = decoder.layers, decoder.norm
            decoder.layers, decoder.norm = decoder.layers[: self.last], None
        if self.precision is Precision.BF16:
            options = {**options, "embeds": options["embeds"].to(torch.bfloat16)}
        return args, options

    def end(self, *_: Any) -> None:
        if self.whole is not None:
            self.decoder.layers, self.decoder.norm = self.whole
            self.whole = None


@needs_host()
def _reading(clip: CLIP, precision: Precision) -> _Reading:
    encoder = clip.cond_stage_model.qwen3_8b
    decoder = encoder.transformer.model
    read = encoder.layer if isinstance(encoder.layer, list) else [len(decoder.layers)]
    return _Reading(decoder, max(read), precision)


def _wrong(tokens: Any) -> str:
    names = list(tokens) if isinstance(tokens, dict) else []
    found = " and ".join(_ENCODERS.get(name, str(name)) for name in names) or "an encoder of another kind"
    return (
        f"This CLIP is {found}, and Klein 9B was trained on Qwen3-8B: connect the clip of Klein 9B Loader, or of Load "
        "CLIP with qwen_3_8b and type flux2."
    )
