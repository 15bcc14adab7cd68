"""Which of a prompt's tokens a part of its text is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...klein.cast_prompt import token_run
from .klein_encoder import QWEN, klein_tokens

if TYPE_CHECKING:
    from comfy.sd import CLIP


def tokens_of_part(clip: CLIP, prompt: str, start: int, stop: int) -> tuple[int, int]:
    """From and to, of the tokens of prompt[start:stop]."""
    end = prompt[:stop] if stop < len(prompt) else f"{prompt}\n"  # or nothing would tell it from the template behind it
    whole, before, through = (_tokens(clip, text) for text in (prompt, prompt[:start], end))
    return token_run(whole, before, through)


def _tokens(clip: CLIP, text: str) -> list[int]:
    tokens, _ = klein_tokens(clip, text)
    return [token for token, *_ in tokens[QWEN][0]]
