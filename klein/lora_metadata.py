"""The alpha that a LoRA file's metadata state, where its tensors have none.

diffusers writes PEFT's LoraConfig into the metadata, as JSON under one name and each field after "transformer.", and
reads it back before anything else; ComfyUI does not. PEFT's rule: the factor is alpha / r, or alpha / sqrt(r) with
use_rslora; alpha_pattern gives other alphas to modules whose name ends with its keys, which are regular expressions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_KEY = "lora_adapter_metadata"
_PREFIX = "transformer."
_MOST = 1e9  # more is no alpha; NaN is not below it either


def stated_alpha(metadata: Mapping[str, str], module: str, rank: int) -> float | None:
    """Of one module in the file's own name; None where the metadata say nothing that can be read."""
    config = _config(metadata)
    alpha = _of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) < _MOST:
        return None
    return alpha * math.sqrt(rank) if config.get("use_rslora") is True else float(alpha)


def _config(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        fields = json.loads(metadata.get(_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {key.removeprefix(_PREFIX): one for key, one in fields.items()} if isinstance(fields, dict) else {}


def _of_pattern(pattern: object, module: str, otherwise: object) -> object:
    for key, alpha in pattern.items() if isinstance(pattern, dict) else ():
        try:
            if re.fullmatch(rf"(.*\.)?({key})", module):
                return alpha
        except re.error:
            continue
    return otherwise
