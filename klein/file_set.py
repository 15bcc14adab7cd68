"""Whether three files make a Klein 9B set, and if not, one sentence on why and where the right one is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import (
    AddOn,
    DiffusionModel,
    Encoder,
    Family,
    Kind,
    Layout,
    TextEncoder,
    Vae,
    VaeKind,
    inspect_diffusion_model,
    inspect_text_encoder,
    inspect_vae,
    shard,
)
from .flux3 import KLEIN as FLUX3_KLEIN
from .flux3 import TEXT_ENCODER as FLUX3_ENCODER
from .safetensors_header import UnreadableFile
from .variant import guess_variant
from .weight_format import Weights

KLEIN_CONTEXT = 12288


class WrongFile(ValueError):
    """A file that does not serve its slot; the message is one sentence for the person who chose it."""


@dataclass(frozen=True)
class KleinFiles:
    """Three files that belong together."""

    diffusion_model: DiffusionModel
    text_encoder: TextEncoder
    vae: Vae


_BFL_PAGE = "https://huggingface.co/black-forest-labs/"
_QWEN_PAGE = "https://huggingface.co/Comfy-Org/flux2-klein-9B (folder split_files/text_encoders)"
_LICENCE = "(gated: accept its licence on that page first)"

# Official files by name, each with the page it is on.
_MODEL_FILES = {
    "flux-2-klein-9b-fp8": f"{_BFL_PAGE}FLUX.2-klein-9b-fp8 {_LICENCE}",
    "flux-2-klein-9b": f"{_BFL_PAGE}FLUX.2-klein-9B {_LICENCE}",
    "flux-2-klein-9b-nvfp4": f"{_BFL_PAGE}FLUX.2-klein-9b-nvfp4 {_LICENCE}",
    "flux-2-klein-base-9b": f"{_BFL_PAGE}FLUX.2-klein-base-9B {_LICENCE}",
    "flux-2-klein-base-9b-fp8": f"{_BFL_PAGE}FLUX.2-klein-base-9b-fp8 {_LICENCE}",
    "flux-2-klein-base-9b-nvfp4": f"{_BFL_PAGE}FLUX.2-klein-base-9b-nvfp4 {_LICENCE}",
    "flux-2-klein-9b-kv": f"{_BFL_PAGE}FLUX.2-klein-9b-kv {_LICENCE}",
    "flux-2-klein-9b-kv-fp8": f"{_BFL_PAGE}FLUX.2-klein-9b-kv-fp8 {_LICENCE}",
}
_ENCODER_FILES = {name: _QWEN_PAGE for name in ("qwen_3_8b_fp8mixed", "qwen_3_8b", "qwen_3_8b_fp4mixed")}
_VAE_FILES = {
    "flux2-vae": "https://huggingface.co/Comfy-Org/flux2-dev (folder split_files/vae)",
    "full_encoder_small_decoder": f"{_BFL_PAGE}FLUX.2-small-decoder",
}
_USUAL_BY_VARIANT = {"base": "flux-2-klein-base-9b-fp8", "kv": "flux-2-klein-9b-kv-fp8"}


@dataclass(frozen=True, eq=False)
class _Slot:
    """A loader input: what it takes, its folder under models/, its official files, the usual one first."""

    name: str
    need: str
    folder: str
    files: Mapping[str, str]


_MODEL = _Slot("diffusion_model", "FLUX.2 [klein] 9B", "diffusion_models", _MODEL_FILES)
_ENCODER = _Slot("text_encoder", f"Qwen3-8B (width {KLEIN_CONTEXT})", "text_encoders", _ENCODER_FILES)
_VAE = _Slot("vae", "the FLUX.2 VAE", "vae", _VAE_FILES)
_PLACES: Mapping[Kind, str] = {
    Family.KLEIN_9B: "diffusion_model",
    Encoder.QWEN3_8B: "text_encoder",
    VaeKind.FLUX2: "vae",
    VaeKind.FLUX2_SMALL_DECODER: "vae",
}
_LOADED_ELSEWHERE = ", which ComfyUI's own Load Diffusion Model node loads"
_ASIDES: Mapping[Kind, str] = {
    Family.KLEIN_4B: _LOADED_ELSEWHERE,
    Family.FLUX2_DEV: _LOADED_ELSEWHERE,
    Family.FLUX1: _LOADED_ELSEWHERE,
    Family.FLUX3: f", another model with another text encoder ({FLUX3_ENCODER}), which this pack does not run",
    AddOn.LORA: ", which is added after this loader with LoraLoaderModelOnly",
}
_PathLike = str | os.PathLike[str]


def check_set(diffusion_model: _PathLike, text_encoder: _PathLike, vae: _PathLike) -> KleinFiles:
    """Inspect the three files and return them if they are a Klein 9B set.

    Raises WrongFile, one sentence naming the first file that is not right, what it is, what its input needs,
    and where the right one is.
    """
    paths = {_MODEL: Path(diffusion_model), _ENCODER: Path(text_encoder), _VAE: Path(vae)}
    for slot, path in paths.items():
        part = shard(path)
        if part:
            raise _wrong(slot, path, f"is part {part[0]} of {part[1]} of a split download", "in one file")
    try:
        model = _check_model(inspect_diffusion_model(diffusion_model))
        encoder = _check_encoder(inspect_text_encoder(text_encoder))
        return KleinFiles(model, encoder, _check_vae(inspect_vae(vae)))
    except UnreadableFile as error:
        slot = next(slot for slot, path in paths.items() if path == error.path)
        raise _wrong(slot, error.path, error.found) from error


def absent(slot_name: str, file_name: str, there: Iterable[str]) -> WrongFile:
    """What to say of a file that is not in the folder of the loader input with that name.

    Args:
        there: what is in that folder, with folders below it as the loader lists them.
    """
    slot = next(slot for slot in (_MODEL, _ENCODER, _VAE) if slot.name == slot_name)
    name = _last(file_name)
    elsewhere = next((one for one in there if _last(one) == name), None)
    if elsewhere is not None:
        return WrongFile(f"{file_name} is not in models/{slot.folder}, but {elsewhere} is: choose it as {slot.name}.")
    return _wrong(slot, Path(name), f"is not in models/{slot.folder}")


def _last(file_name: str) -> str:
    """Of a path as any system writes it."""
    return re.split(r"[/\\]", file_name)[-1]


def _check_model(model: DiffusionModel) -> DiffusionModel:
    if model.bundled or model.family is not Family.KLEIN_9B:
        how = "alone" if model.bundled else ""
        raise _wrong(_MODEL, model.path, f"is {model.name}{_aside(model.holds)}", how)
    if model.layout is Layout.DIFFUSERS:
        found = f"is {model.name} in diffusers' tensor names, which ComfyUI does not read for FLUX.2"
        raise _wrong(_MODEL, model.path, found, "in its single-file release")
    if model.missing:
        raise _wrong(_MODEL, model.path, f"is {model.name} without its tensor {model.missing[0]}")
    _check_marks(_MODEL, model.path, model.name, model.weights)
    return model


def _check_encoder(encoder: TextEncoder) -> TextEncoder:
    if encoder.kind is not Encoder.QWEN3_8B:
        raise _wrong(_ENCODER, encoder.path, f"is {_encoder_words(encoder)}{_aside(encoder.holds)}")
    _check_marks(_ENCODER, encoder.path, encoder.name, encoder.weights)
    return encoder


def _encoder_words(encoder: TextEncoder) -> str:
    if encoder.kind is Encoder.QWEN3_VL_8B:
        return f"{encoder.name}, whose width fits but whose weights Klein was not trained on"
    if encoder.kind is Encoder.QWEN3_4B:
        return f"{encoder.name} (width {encoder.context}, for FLUX.2 [klein] 4B)"
    if encoder.kind is Encoder.QWEN3_VL_4B:
        return f"{encoder.name} (width {encoder.context}), which {FLUX3_KLEIN} reads"
    return f"{encoder.name} (width {encoder.context})" if encoder.context else encoder.name


def _check_vae(vae: Vae) -> Vae:
    if vae.kind not in (VaeKind.FLUX2, VaeKind.FLUX2_SMALL_DECODER):
        raise _wrong(_VAE, vae.path, f"is {vae.name}{_aside(vae.holds)}")
    return vae


def _check_marks(slot: _Slot, path: Path, name: str, weights: Weights) -> None:
    if weights.unmarked:
        found = f"is {name} in {weights} but without ComfyUI's marks for that, so it would load as noise"
        raise _wrong(slot, path, found)


def _aside(holds: Kind | None) -> str:
    if holds is None:
        return ""
    return f", whose place is {_PLACES[holds]}" if holds in _PLACES else _ASIDES.get(holds, "")


def _wrong(slot: _Slot, path: Path, found: str, how: str = "") -> WrongFile:
    need = f"{slot.need} {how}" if how else slot.need
    return WrongFile(f"{path.name} {found}, but {slot.name} needs {need}: {_where(slot, path)}.")


def _where(slot: _Slot, path: Path) -> str:
    """Where to get the official file this one is named after, else the usual one of the slot."""
    stem = path.stem.lower()
    file = stem if stem in slot.files else _usual(slot, stem)
    return f"get {file}.safetensors from {slot.files[file]} into models/{slot.folder}"


def _usual(slot: _Slot, stem: str) -> str:
    usual = next(iter(slot.files))
    if slot is _MODEL and "klein" in stem:
        return _USUAL_BY_VARIANT.get(guess_variant(stem, {}).name, usual)
    return usual
