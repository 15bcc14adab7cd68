"""FLUX.3 [klein], which is easily taken for FLUX.2 [klein]: what tells it, as far as that is known.

Its model page (black-forest-labs/flux-3-image-klein) gives 5.6B parameters, the text encoder Qwen3-VL-4B and up to 10
references. How its tensors are called was not published where this was written. Those of the FLUX 3 transformer are
known from its first release, FLUX Action (github.com/black-forest-labs/flux-action, flux_action/models/transformer.py);
a file that names itself is believed where its shapes are not Klein 9B's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .safetensors_header import Header
from .variant import TITLES
from .weight_format import MODEL_PREFIX

KLEIN = "FLUX.3 [klein]"
TEXT_ENCODER = "Qwen3-VL-4B"
_PREFIXES = ("", "dit.", MODEL_PREFIX)
_MARKS = ("early_stream_modulations.txt.lin.weight", "txt_mode_blocks.0.q_proj.weight")
_OWN_NAME = re.compile(r"\bflux ?3 (image )?klein\b")


def flux3_words(header: Header) -> str:
    """The file in words that follow "is" where it is a FLUX.3 model, else empty."""
    source = _said_by(header.path.stem, header.metadata)
    if source:
        return f"{KLEIN} by its {source}"
    return "a FLUX.3 model" if _has_marks(header) else ""


def _said_by(file_stem: str, metadata: Mapping[str, str]) -> str:
    """What of the file names it FLUX.3 [klein]; empty where nothing does."""
    if any(_names_it(metadata.get(key, "")) for key in TITLES):
        return "metadata"
    return "file name" if _names_it(file_stem) else ""


def _names_it(text: str) -> bool:
    return bool(_OWN_NAME.search(re.sub(r"[^a-z0-9]+", " ", text.lower())))


def _has_marks(header: Header) -> bool:
    return any(all(prefix + mark in header.tensors for mark in _MARKS) for prefix in _PREFIXES)
