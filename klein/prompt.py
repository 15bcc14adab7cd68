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
MOST_IMAGES = 10


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
    """The numbers in "image 3", "images 1 and 2", "Figure 2", "Bild 3" and the like, up to MOST_IMAGES."""
    loose = [found["numbers"] for found in _LOOSE.finditer(text) if _means_images(found)]
    lists = [found["numbers"] for found in _IMAGES.finditer(text)] + loose + _ORDINALS.findall(text)
    numbers = {int(number) for numbers in lists for number in re.findall(r"\d+", numbers)}
    return {number for number in numbers if 1 <= number <= MOST_IMAGES}


def _means_images(found: re.Match[str]) -> bool:
    """Whether "photo 3" is the third image, and not part of "a photo 3 metres wide" or "a figure 3"."""
    if "#" in found["numbers"]:
        return True
    near = _LAST_WORD.search(found.string, max(0, found.start() - _LONGEST_WORD), found.start())
    before = near[1].lower() if near else ""
    pointed, capital = bool(_POINTING.fullmatch(before)), found["word"][0].isupper()
    if pointed and capital:
        return True
    named = pointed or (not _ARTICLES.fullmatch(before) if capital else not before)
    return named and bool(_CLOSED.match(found.string, found.end()))


# Of bounded length, so that a hostile text costs no more time than a long one.
_BRACKETED = re.compile(r"\([^()\n]{1,300}\)")
# No digit before the colon: 16:9 is a ratio. Few before the point: 10:30 is a time.
_WEIGHT = re.compile(r"[^\W\d][^\d:]*:\s*(\d|\d?\.\d+)\)$")

# English, German, Spanish and French in one; Japanese, Chinese and Korean write no spaces.
_WORDS = "images?|imgs?|bild|bilder|bildern|bildes|imagen|im\u00e1genes"
# Before a number they often are no image: a figure 8 is a shape, with an image's number or without.
_LOOSE_WORDS = (
    r"pictures?|pics?|photos?|photographs?|figures?(?!\s+8\b)|figs?|references?|refs?|"
    "fotos?|abbildung|abbildungen|referenz|referenzen|"
    "fotograf\u00edas?|figuras?|referencias?|photographies?|r\u00e9f\u00e9rences?"
)
_POINTING = re.compile(
    "the|in|from|of|on|to|into|onto|with|as|by|like|and|or|dem|das|der|den|aus|von|auf|zu|mit|wie|und|oder|im|vom|am|"
    "la|las|el|los|de|en|del|con|como|y|o|le|les|du|dans|sur|avec|comme|et|ou"
)
_ARTICLES = re.compile("an?|one|eine?[nmrs]?|un[ao]?|une")
_LONGEST_WORD = 16
_LAST_WORD = re.compile(r"(\w*)\s*$")
_CLOSED = re.compile(r"(?=\s*(?:$|[.,;:!?)\]\"]|['\u2019]s\b|(?:and|or|und|oder|y|o|et|ou)\b))", re.IGNORECASE)
_JOINED = (
    "\u753b\u50cf|\u5199\u771f|\u56f3|"
    "\u56fe\u50cf|\u56fe\u7247|\u56fe|\u7167\u7247|"
    "\uc774\ubbf8\uc9c0|\uc0ac\uc9c4|\uadf8\ub9bc"
)
_NUMBER = r"#?\d{1,2}(?![\d.:%]{0,3}\d)(?![A-Za-z])"
_LIST = rf"{_NUMBER}(?:\s*(?:,|&|\+|and|or|und|oder|y|o|et|ou)\s*{_NUMBER})*"
_SPACED = rf"(?<![^\W_])(?:{_WORDS})[\s_]*"
_LOOSE = re.compile(rf"(?<![^\W_])(?P<word>{_LOOSE_WORDS})[\s_]*(?P<numbers>{_LIST})", re.IGNORECASE)
_UNSPACED = rf"(?:{_JOINED})\s*"
_IMAGES = re.compile(rf"(?:{_SPACED}|{_UNSPACED})(?P<numbers>{_LIST})", re.IGNORECASE)
_ORDINALS = re.compile("\u7b2c\\s*(\\d{1,2})\\s*[\u5f20\u5e45\u679a]")  # Chinese: the third picture
