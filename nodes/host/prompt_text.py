"""The prompt's own words, carried along in CONDITIONING for nodes that compare them with what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...klein.prompt import MAX_TOKENS, TextLength, images_spoken_of, weighted_words

_MOST_WORDS = 3
_KEY = "klein9b_prompt"
_REFERENCES = "reference_latents"


def with_prompt_text(conditioning: list, text: str) -> list:
    """The same with the text beside each tensor, where samplers do not look."""
    return [[cond, {**beside, _KEY: text}] for cond, beside in conditioning]


def missing_images(conditioning: list) -> str:
    """A sentence where the prompt speaks of an image that is not among its references; empty where all are there."""
    for _, beside in conditioning:
        missing = sorted(_missing(beside))
        if missing:
            named = " and ".join(f"image {number}" for number in missing)
            return f"The prompt speaks of {named}, but {_images(_joined(beside))}."
    return ""


def not_read(text: str, lengths: Mapping[str, TextLength]) -> list[str]:
    """Sentences on what Klein does not read of prompts.

    Args:
        text: of all of them.
        lengths: by what a prompt is called.
    """
    cuts = [_cut(name, length) for name, length in lengths.items() if length.cut]
    words = weighted_words(text)
    return [*cuts, *([_weights(words)] if words else [])]


def _cut(name: str, length: TextLength) -> str:
    return (
        f"The {name} is {length.tokens:,} tokens long with its template; Klein reads the first {MAX_TOKENS}, "
        f"as Black Forest Labs runs it, so the last {length.cut:,} were cut. Shorten it."
    )


def _weights(words: list[str]) -> str:
    named = ", ".join(words[:_MOST_WORDS]) + (" and more" if len(words) > _MOST_WORDS else "")
    return f"Klein reads {named} as plain text, brackets and numbers included: weights do nothing. Say it in words."


def _missing(beside: dict[str, Any]) -> set[int]:
    text = beside.get(_KEY)
    spoken_of = images_spoken_of(text) if isinstance(text, str) else set()
    return {number for number in spoken_of if number > _joined(beside)}


def _joined(beside: dict[str, Any]) -> int:
    return len(beside.get(_REFERENCES) or ())


def _images(count: int) -> str:
    return {0: "no image is connected", 1: "one image is connected"}.get(count, f"{count} images are connected")
