"""Encoded prompts found again: what an encoding depends on, and the store that keeps it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
import torch

from ...klein.prompt import TextLength
from ...klein.prompt_files import COND, FORMAT, Encoding
from ...klein.prompt_store import PromptKey, PromptStore
from .klein_encoder import Precision, encode_tokens, klein_tokens
from .lazy_clip import LazyClip, template_of
from .model_state import Same
from .newer_host import needs_host, this_host
from .weight_patches import UnknownPatch, patches_digest

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

_EMBEDDING = "embedding:"
_OTHER_CHANGES = ("hook_patches", "forced_hooks", "weight_wrapper_patches", "injections")
_AS_LOADED = {"manual_cast_dtype": torch.float32}


@dataclass(frozen=True)
class EncodedPrompt:
    """CONDITIONING, how long the prompt was, and where its encoding was kept: "RAM", "disk", or "" for a new one."""

    conditioning: list
    length: TextLength
    kept: str = ""


def encode_prompt(clip: CLIP, text: str, precision: Precision) -> EncodedPrompt:
    """From what is kept, without a look at the weights or the tokenizer, else through the encoder.

    Raises:
        WrongEncoder: the CLIP is not Qwen3-8B.
        NoBfloat16: it cannot compute in this precision.
    """
    key = prompt_key(clip, text, precision)
    found = _store().find(key) if key else None
    if found:
        return EncodedPrompt(_conditioning(found.encoding), TextLength(found.encoding.tokens), found.place)
    tokens, length = klein_tokens(clip, text)
    conditioning = encode_tokens(clip, tokens, precision)
    encoding = _encoding(conditioning, length) if key else None
    key = prompt_key(clip, text, precision)  # of the weights that were read just now
    if key and encoding:
        _store().keep(key, encoding)
    return EncodedPrompt(conditioning, length)


def prompts_folder() -> Path:
    """A system user's folder, which the host never serves."""
    return Path(folder_paths.get_system_user_directory("klein9b")) / "prompts"


def _store() -> PromptStore:
    return _store_of(prompts_folder())


@functools.cache
def _store_of(folder: Path) -> PromptStore:
    return PromptStore(folder)


@needs_host()
def prompt_key(clip: CLIP, text: str, precision: Precision) -> PromptKey | None:
    """All that the encoding depends on; None where it must not be kept."""
    if _EMBEDDING in text or clip.apply_hooks_to_conds or clip.use_clip_schedule:
        return None
    its_own = isinstance(clip, LazyClip) and clip.is_of_its_file
    unopened = its_own and not clip.is_open
    if not unopened and _changed_otherwise(clip.patcher):
        return None
    patches, process = ("", None) if unopened else _patches(clip, its_own)
    about = {
        "format": FORMAT,
        "encoder": asdict(clip.file.identity) if isinstance(clip, LazyClip) else None,
        "patches": patches,
        "text": text,
        "precision": precision.value,
        "tokenizer": sorted(clip.tokenizer_options.items()),
        "template": clip.file.changed_template if its_own else template_of(clip.tokenizer),
        "layer": clip.layer_idx,
        "device": _device_type(clip, its_own),
        "made by": [this_host(), torch.__version__],
    }
    return PromptKey(hashlib.sha256(json.dumps(about, default=repr).encode()).hexdigest(), process)


def _changed_otherwise(patcher: ModelPatcher) -> bool:
    """Whether something other than patches to the weights may change what it computes."""
    replaced = {name: part for name, part in patcher.object_patches.items() if _AS_LOADED.get(name) != part}
    return bool(replaced) or any(getattr(patcher, name, None) for name in _OTHER_CHANGES)


def _patches(clip: CLIP, its_own: bool) -> tuple[str, Hashable]:
    """The patches' digest, or the host's own name for them together with what only this process knows."""
    if its_own:
        try:
            return patches_digest(clip.patcher), None
        except UnknownPatch:
            pass
    parts = (clip.tokenizer, clip.cond_stage_model, clip.patcher.model)
    return str(clip.patcher.patches_uuid), tuple(map(Same, parts))


def _device_type(clip: CLIP, its_own: bool) -> str:
    """Of the host's choice, though it may load an encoder elsewhere that the chosen device cannot hold."""
    import comfy.model_management

    if its_own and clip.is_where_it_was_loaded:
        return str(torch.device(comfy.model_management.text_encoder_device()).type)
    return f"on {torch.device(clip.patcher.load_device).type}"


def _encoding(conditioning: list, length: TextLength) -> Encoding | None:
    """None where it is not one finite float32 tensor and plain tensors beside it."""
    (cond, beside), *others = conditioning
    tensors = {name: value for name, value in beside.items() if isinstance(value, torch.Tensor)}
    without = tuple(name for name, value in beside.items() if value is None)
    plain = len(tensors) + len(without) == len(beside) and COND not in beside
    if others or not plain or cond.dtype != torch.float32 or not torch.isfinite(cond).all():
        return None
    kept = {COND: _narrowed(cond), **tensors}
    return Encoding({name: tensor.cpu() for name, tensor in kept.items()}, without, length.tokens)


def _narrowed(cond: torch.Tensor) -> torch.Tensor:
    """As bfloat16 where that loses nothing."""
    narrow = cond.to(torch.bfloat16)
    return narrow if torch.equal(narrow.float(), cond) else cond


def _conditioning(encoding: Encoding) -> list:
    import comfy.model_management

    device = comfy.model_management.intermediate_device()
    tensors = {name: tensor.to(device) for name, tensor in encoding.tensors.items()}
    cond = tensors.pop(COND).float()
    return [[cond, {**tensors, **dict.fromkeys(encoding.without)}]]
