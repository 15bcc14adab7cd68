"""Which files are Klein 9B's by their names alone, so that lists begin with them. No file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .official_files import ENCODERS, MODELS, VAES, official


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        official: its official names without their ending, the first choice first.
        says: what another name says that means Klein 9B, in lower case.
        usual: the official file to get where there is none.
    """

    official: tuple[str, ...]
    says: re.Pattern[str]
    usual: str


_KLEIN = re.compile(r"(?!.*flux[ ._-]?3).*klein.*(?<![0-9])9b")
DIFFUSION_MODEL = Kind(tuple(MODELS), _KLEIN, "flux-2-klein-9b-fp8.safetensors")
TEXT_ENCODER = Kind(tuple(ENCODERS), re.compile(r".*qwen[ ._-]?3[ ._-]8b"), "qwen_3_8b_fp8mixed.safetensors")
VAE = Kind(tuple(VAES), re.compile(r".*flux[ ._-]?2(?![0-9])"), "flux2-vae.safetensors")
LORA = Kind((), _KLEIN, "")
_OTHER = (2, 0)


def klein_first(names: Iterable[str], *kinds: Kind) -> list[str]:
    """The same names: official ones, then those that say Klein 9B, then the rest; else in their order."""
    return sorted(names, key=lambda name: min(_rank(name, kind) for kind in kinds))


def is_kleins(name: str, kind: Kind) -> bool:
    return _rank(name, kind) < _OTHER


def first_choice(names: Sequence[str], kind: Kind) -> str:
    """What a list begins with if that is Klein 9B's, else the official file that is missing: never another model."""
    first = klein_first(names, kind)[:1]
    return first[0] if first and is_kleins(first[0], kind) else kind.usual


def _rank(name: str, kind: Kind) -> tuple[int, int]:
    known = official(name, dict.fromkeys(kind.official))
    if known is not None:
        return 0, kind.official.index(known)
    return (1, 0) if kind.says.match(name.lower()) else _OTHER
