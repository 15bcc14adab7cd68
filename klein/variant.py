"""Which training of Klein 9B a file holds: distilled, base or kv.

The three have the same tensor names and shapes, so nothing in the weights tells them apart. What remains is
the user's choice, what the file's metadata say, and what the file is called, in that order of trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_ASSUMED = "assumed"
VARIANTS = ("distilled", "base", "kv")
METADATA_KEY = "klein_variant"
TITLES = ("modelspec.title", "modelspec.architecture", "general.name", "name", "title")
# The first word present wins.
_WORDS = {"kv": "kv", "base": "base", "undistilled": "base", "distilled": "distilled"}
# Official names say base and kv and leave distilled unsaid; a fine-tune's longer name promises nothing.
_PLAIN_OFFICIAL = re.compile(r"flux[ ._-]?2[ ._-]klein[ ._-]9b([ ._-](fp8|fp16|bf16|nvfp4|int8))?")


@dataclass(frozen=True)
class Variant:
    """name: distilled, base, kv or unknown. source: why, as a clause ("its file name says base")."""

    name: str
    source: str

    @property
    def assumed(self) -> bool:
        """Whether neither the file nor anybody said so."""
        return self.source.startswith(_ASSUMED)


def guess_variant(file_stem: str, metadata: Mapping[str, str]) -> Variant:
    """What a file says of itself, by metadata first, then by file name."""
    said = metadata.get(METADATA_KEY, "")
    if said in VARIANTS:
        return Variant(said, f"its metadata say {said}")
    for key in TITLES:
        name = _named(metadata.get(key, ""))
        if name:
            return Variant(name, f"its metadata ({key}) say {name}")
    name = _named(file_stem)
    if name:
        return Variant(name, f"its file name says {name}")
    if _PLAIN_OFFICIAL.fullmatch(file_stem.lower()):
        return Variant("distilled", "its file name is that of the distilled release")
    return Variant("unknown", "neither its metadata nor its file name says")


def decide_variant(found: Variant, chosen: str) -> Variant:
    """The user's choice, else what the file says, else distilled as an assumption that ``source`` admits.

    Distilled is assumed because it is the release with the plain name. Base or kv weights run as distilled
    give a picture, not an error, so a caller should show ``source``.

    Raises ValueError when ``chosen`` is none of auto, distilled, base, kv.
    """
    if chosen not in ("auto", *VARIANTS):
        raise ValueError(f"variant is {chosen!r}, but must be auto, {', '.join(VARIANTS)}.")
    if chosen == "auto":
        assumed = Variant("distilled", f"{_ASSUMED}, since {found.source}; choose the variant if it is another")
        return assumed if found.name == "unknown" else found
    if found.name in (chosen, "unknown"):
        return Variant(chosen, "chosen by you")
    return Variant(chosen, f"chosen by you, although {found.source}")


def _named(text: str) -> str:
    words = re.split(r"[^a-z0-9]+", text.lower())
    return next((variant for word, variant in _WORDS.items() if word in words), "")
