"""A prompt whose lines say where: "left: image 2 in a red coat"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .influence import EVERYWHERE, Box
from .prompt import images_spoken_of

_THIRD = 1 / 3
BOXES = {
    "left": Box(right=0.5),
    "right": Box(left=0.5),
    "top": Box(bottom=0.5),
    "bottom": Box(top=0.5),
    "top left": Box(right=0.5, bottom=0.5),
    "top right": Box(left=0.5, bottom=0.5),
    "bottom left": Box(right=0.5, top=0.5),
    "bottom right": Box(left=0.5, top=0.5),
    "left third": Box(right=_THIRD),
    "middle third": Box(left=_THIRD, right=2 * _THIRD),
    "right third": Box(left=2 * _THIRD),
    "top third": Box(bottom=_THIRD),
    "middle band": Box(top=_THIRD, bottom=2 * _THIRD),
    "bottom third": Box(top=2 * _THIRD),
    "everywhere": EVERYWHERE,
}
_PLACES = "|".join(sorted((name.replace(" ", "[ \\t]+") for name in BOXES), key=len, reverse=True))
_LINE = re.compile(
    rf"^[ \t]*(?P<place>{_PLACES}|mask[ \t]*#?(?P<mask>\d+))[ \t]*:[ \t]*(?P<text>\S.*)$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class CastLine:
    """A line of the prompt that has a place.

    Attributes:
        place: a name of `BOXES`, or the number of a mask.
        start: of the line, in characters of the prompt.
        stop: behind its last character.
        images: that it speaks of.
    """

    place: str | int
    start: int
    stop: int
    images: frozenset[int]


def cast_lines(prompt: str) -> list[CastLine]:
    """The lines that begin with a place and a colon, in order."""
    return [_line(found) for found in _LINE.finditer(prompt)]


def token_run(whole: list[int], before: list[int], through: list[int]) -> tuple[int, int]:
    """From and to, of a part's tokens.

    A token across the part's first edge belongs to it, one across its last does not.

    Args:
        whole: tokens of the prompt.
        before: of what comes before the part, in the prompt's template.
        through: of that and the part.
    """
    return _alike(whole, before), _alike(whole, through)


def _line(found: re.Match[str]) -> CastLine:
    place = int(found["mask"]) if found["mask"] else " ".join(found["place"].lower().split())
    return CastLine(place, found.start(), found.end(), frozenset(images_spoken_of(found["text"])))


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
