"""The bytes of Klein 9B's files: of one that is there from its header, of an official one that is not from its name.

Sizes of files as their pages on huggingface.co tell them, in GB of 10^9 bytes; layers of quantised ones are spread
evenly, so what is told of those is about right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import (
    Encoder,
    Family,
    VaeKind,
    inspect_diffusion_model,
    inspect_text_encoder,
    inspect_vae,
)
from .prompt import LAST_LAYER
from .residency import Module
from .safetensors_header import Header, UnreadableFile, read_header
from .vram import ITEM, KLEIN_9B, Dims

GB = 1e9
LAYERS = 36  # of the text encoder
_SUFFIX = ".safetensors"
_EMBEDDING = 151936 * 4096 * ITEM

MODELS: Mapping[str, float] = {
    "flux-2-klein-9b": 18.157, "flux-2-klein-9b-fp8": 9.433, "flux-2-klein-9b-nvfp4": 5.761,
    "flux-2-klein-base-9b": 18.157, "flux-2-klein-base-9b-fp8": 9.567, "flux-2-klein-base-9b-nvfp4": 5.809,
    "flux-2-klein-9b-kv": 18.157, "flux-2-klein-9b-kv-fp8": 9.819,
}  # fmt: skip
# Only the first has the head that makes words, as large as its embedding.
ENCODERS: Mapping[str, float] = {"qwen_3_8b": 16.382, "qwen_3_8b_fp8mixed": 8.665, "qwen_3_8b_fp4mixed": 6.803}
_WITH_HEAD = "qwen_3_8b"
VAES: Mapping[str, tuple[float, int]] = {"flux2-vae": (0.336, 128), "full_encoder_small_decoder": (0.25, 96)}


@dataclass(frozen=True)
class ModelFile:
    """A diffusion model.

    Attributes:
        note: what is odd about the file, empty where nothing is.
        to_download: its size where it is not there, else 0.
    """

    name: str
    modules: tuple[Module, ...]
    dims: Dims = KLEIN_9B
    note: str = ""
    to_download: float = 0

    @property
    def nbytes(self) -> int:
        return sum(module.stored for module in self.modules)

    @property
    def largest(self) -> int:
        return max((module.stored for module in self.modules), default=0)


@dataclass(frozen=True)
class EncoderFile:
    """A text encoder: bytes of the layers that Klein reads, in the file's own format. Else as ModelFile."""

    name: str
    nbytes: int
    note: str = ""
    to_download: float = 0


@dataclass(frozen=True)
class VaeFile:
    """A VAE: bytes as a card holds it, and the channels of its decoder's last level. Else as ModelFile."""

    name: str
    nbytes: int
    decoder: int = 128
    note: str = ""
    to_download: float = 0


def official(name: str, files: Mapping[str, object]) -> str | None:
    """The official file that a path or name means, without its ending."""
    stem = re.split(r"[/\\]", name)[-1].removesuffix(_SUFFIX)
    return stem if stem in files else None


def model_file(name: str, path: Path | None) -> ModelFile:
    """path: None where the file is not there. A file that cannot be read, or is another model, has a note."""
    known = official(name, MODELS)
    if path is None:
        if known is None:
            return ModelFile(name, (), note=_unknown(name))
        return ModelFile(name, _modules_of(MODELS[known]), to_download=MODELS[known] * GB)
    if path.suffix == ".gguf":
        return ModelFile(name, _modules_of(_size(path) / GB), note=_gguf(name))
    try:
        model = inspect_diffusion_model(path)
        modules = _modules(read_header(path))
    except UnreadableFile as error:
        return ModelFile(name, (), note=str(error))
    note = "" if model.family is Family.KLEIN_9B else f"{path.name} is {model.name}, not FLUX.2 [klein] 9B."
    if not (model.hidden and model.single_blocks):
        return ModelFile(name, (), note=note)
    return ModelFile(name, modules, Dims(model.hidden, model.double_blocks, model.single_blocks, model.context), note)


def encoder_file(name: str, path: Path | None) -> EncoderFile:
    """As `model_file`."""
    known = official(name, ENCODERS)
    if path is None:
        if known is None:
            return EncoderFile(name, 0, _unknown(name))
        head = _EMBEDDING if known == _WITH_HEAD else 0
        size = ENCODERS[known] * GB
        return EncoderFile(name, _layers_read(size - head), to_download=size)
    if path.suffix == ".gguf":
        return EncoderFile(name, _layers_read(_size(path)), _gguf(name))
    try:
        encoder = inspect_text_encoder(path)
    except UnreadableFile as error:
        return EncoderFile(name, 0, str(error))
    note = "" if encoder.kind is Encoder.QWEN3_8B else f"{path.name} is {encoder.name}, not Qwen3-8B."
    return EncoderFile(name, encoder.read_bytes, note)


def vae_file(name: str, path: Path | None) -> VaeFile:
    """As `model_file`."""
    known = official(name, VAES)
    if path is None:
        if not known:
            return VaeFile(name, 0, note=_unknown(name))
        size, decoder = VAES[known]
        return VaeFile(name, int(size * GB) // 2, decoder, to_download=size * GB)
    try:
        vae = inspect_vae(path)
        nbytes = sum(tensor.elements for tensor in read_header(path).tensors.values()) * ITEM
    except UnreadableFile as error:
        return VaeFile(name, 0, note=str(error))
    is_flux2 = vae.kind in (VaeKind.FLUX2, VaeKind.FLUX2_SMALL_DECODER)
    return VaeFile(name, nbytes, vae.decoder, "" if is_flux2 else f"{path.name} is {vae.name}, not the FLUX.2 VAE.")


def _modules(header: Header) -> tuple[Module, ...]:
    """By layer. Wide floats are loaded as bfloat16; a quantised matrix is one of bfloat16 beside itself while used."""
    stored: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for name, tensor in header.tensors.items():
        layer, _, part = name.rpartition(".")
        is_wide = tensor.dtype in ("F32", "F64") and len(tensor.shape) > 1
        stored[layer] += tensor.elements * ITEM if is_wide else tensor.end - tensor.start
        if part == "weight" and tensor.dtype not in ("BF16", "F16", "F32", "F64"):
            used[layer] += tensor.elements * ITEM
    return tuple(Module(size, size + used[layer]) for layer, size in stored.items())


def _modules_of(gigabytes: float, dims: Dims = KLEIN_9B) -> tuple[Module, ...]:
    """Of a file of this size: what is outside the blocks in bfloat16, the blocks' matrices share the rest."""
    width = dims.hidden * dims.hidden
    double = [3 * width, width, 6 * width, 3 * width] * 2 * dims.double_blocks
    single = [9 * width, 4 * width] * dims.single_blocks
    ends = [6 * width, 6 * width, 3 * width, 2 * width, width, dims.hidden * dims.context]
    blocks = [*double, *single]
    share = max(0.0, min(float(ITEM), (gigabytes * GB - ITEM * sum(ends)) / sum(blocks)))
    extra = 0 if share == ITEM else ITEM
    outside = [Module(ITEM * size, ITEM * size) for size in ends]
    return (*outside, *(Module(int(share * size), int((share + extra) * size)) for size in blocks))


def _layers_read(file_bytes: float) -> int:
    return int(_EMBEDDING + (file_bytes - _EMBEDDING) * LAST_LAYER / LAYERS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _gguf(name: str) -> str:
    return f"{name} is a GGUF file: ComfyUI needs a GGUF loader node for it, and Klein 9B Loader does not load it."


def _unknown(name: str) -> str:
    return f"{name} is not there and none of the official files, so its size is not known."


def twins(name: str) -> Sequence[str]:
    """Smaller official files of the same training, the largest first."""
    known = official(name, MODELS)
    kinds = ("", "-fp8", "-nvfp4")
    if known is None:
        return ()
    stem = next(known.removesuffix(kind) for kind in reversed(kinds) if known.endswith(kind))
    family = (stem + kind for kind in kinds)
    return [one for one in family if one in MODELS and MODELS[one] < MODELS[known]]
