"""How Klein 9B reads a prompt: how much of Qwen3-8B, how much of the text, and which words in it do nothing.

Source: Black Forest Labs' flux2 and diffusers' Flux2KleinPipeline, which take the states after layers 9, 18 and 27,
and the first 512 tokens of the prompt in its chat template.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAPS = (9, 18, 27)
LAST_LAYER = max(TAPS)
MAX_TOKENS = 512


@dataclass(frozen=True)
class TextLength:
    """How many tokens the prompt and its template have, before what is over MAX_TOKENS was cut."""

    tokens: int

    @property
    def cut(self) -> int:
        """How many were cut."""
        return max(0, self.tokens - MAX_TOKENS)


def weighted_words(text: str) -> list[str]:
    """What is written as (word:1.2), which other models' prompts give a weight and Klein reads as it stands."""
    return [words for words in _BRACKETED.findall(text) if _WEIGHT.search(words)]


def images_spoken_of(text: str) -> set[int]:
    """The numbers in "image 3", "images 1 and 2", "Bild 3" and the like. Larger than 99 is no image's number."""
    lists = [found["numbers"] for found in _IMAGES.finditer(text)] + _ORDINALS.findall(text)
    return {int(number) for numbers in lists for number in re.findall(r"\d+", numbers)} - {0}


# Of bounded length, so that a hostile text costs no more time than a long one.
_BRACKETED = re.compile(r"\([^()\n]{1,300}\)")
# No digit before the colon: 16:9 is a ratio. Few before the point: 10:30 is a time.
_WEIGHT = re.compile(r"[^\W\d][^\d:]*:\s*(\d|\d?\.\d+)\)$")

# English, German, Spanish and French in one; Japanese, Chinese and Korean write no spaces.
_WORDS = (
    "images?|imgs?|pictures?|pics?|photos?|photographs?|figures?|figs?|references?|refs?|"
    "bild|bilder|bildern|bildes|fotos?|abbildung|abbildungen|referenz|referenzen|"
    "imagen|im\u00e1genes|fotograf\u00edas?|figuras?|referencias?|photographies?|r\u00e9f\u00e9rences?"
)
_JOINED = (
    "\u753b\u50cf|\u5199\u771f|\u56f3|"
    "\u56fe\u50cf|\u56fe\u7247|\u56fe|\u7167\u7247|"
    "\uc774\ubbf8\uc9c0|\uc0ac\uc9c4|\uadf8\ub9bc"
)
_NUMBER = r"#?\d{1,2}(?![\d.:%]{0,3}\d)(?![A-Za-z])"
_LIST = rf"{_NUMBER}(?:\s*(?:,|&|\+|and|or|und|oder|y|o|et|ou)\s*{_NUMBER})*"
_SPACED = rf"(?<![^\W_])(?:{_WORDS})[\s_]*"
_UNSPACED = rf"(?:{_JOINED})\s*"
_IMAGES = re.compile(rf"(?:{_SPACED}|{_UNSPACED})(?P<numbers>{_LIST})", re.IGNORECASE)
_ORDINALS = re.compile("\u7b2c\\s*(\\d{1,2})\\s*[\u5f20\u5e45\u679a]")  # Chinese: the third picture
