"""A file as the memory plan sees it: read from its header where it is there, else from what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .checkpoint import DiffusionModel, TextEncoder, Vae
from .file_set import WrongFile, check_diffusion_model, check_text_encoder, check_vae
from .official_files import DIFFUSION_MODELS, TEXT_ENCODERS, VAES, OfficialFile
from .plan import ModelSet, WeightsFile
from .prompt import LAST_LAYER
from .vram import KLEIN_9B, Dims

_QWEN_LAYERS = 36
_HALVED = ("fp32", "fp64")  # the host computes in 16 bits where a card can


def planned_set(paths: Mapping[str, Path | None], names: Mapping[str, str]) -> ModelSet:
    """The three files.

    Args:
        paths: diffusion_model, text_encoder and vae to where each is, None where it is to be downloaded.
        names: the same to their names.

    Raises:
        WrongFile: one is not what its place needs, see klein.file_set; or it is neither there nor official.
    """
    model_path, encoder_path, vae_path = (paths[key] for key in ("diffusion_model", "text_encoder", "vae"))
    model = check_diffusion_model(model_path) if model_path else _known(DIFFUSION_MODELS, names["diffusion_model"])
    encoder = check_text_encoder(encoder_path) if encoder_path else _known(TEXT_ENCODERS, names["text_encoder"])
    vae = check_vae(vae_path) if vae_path else _known(VAES, names["vae"])
    return ModelSet(
        planned(names["diffusion_model"], model),
        planned(names["text_encoder"], encoder),
        planned(names["vae"], vae),
        dims=dims_of(model) if isinstance(model, DiffusionModel) else KLEIN_9B,
        decoder=vae.decoder,
    )


def _known(official: Mapping[str, OfficialFile], name: str) -> OfficialFile:
    if name not in official:
        raise WrongFile(f"{name} is not in its models folder, and its size is known only of: {', '.join(official)}.")
    return official[name]


def planned(name: str, file: DiffusionModel | TextEncoder | Vae | OfficialFile) -> WeightsFile:
    if isinstance(file, OfficialFile):
        return WeightsFile(name, _in_memory(_read(file), file.format), file.format, file.size)
    read = file.read_bytes if isinstance(file, TextEncoder) else file.weights.tensor_bytes
    return WeightsFile(name, _in_memory(read, file.weights.format), file.weights.format)


def _read(file: OfficialFile) -> int:
    """Bytes of it that Klein reads: of a text encoder's layers, those up to the last it taps."""
    if not file.embedding:
        return file.size
    layers = file.size - file.embedding - file.head
    return file.embedding + layers * LAST_LAYER // _QWEN_LAYERS


def smaller_files(name: str) -> tuple[WeightsFile, ...]:
    """Official files of the same model that take less, largest first; none where this name is not official."""
    name = Path(name).name
    own = DIFFUSION_MODELS.get(name)
    if own is None:
        return ()
    family = _family(name)
    less = (n for n, file in DIFFUSION_MODELS.items() if _family(n) == family and file.size < own.size)
    return tuple(planned(n, DIFFUSION_MODELS[n]) for n in sorted(less, key=lambda n: -DIFFUSION_MODELS[n].size))


def dims_of(model: DiffusionModel) -> Dims:
    return Dims(model.hidden, model.double_blocks, model.single_blocks, model.context)


def _family(name: str) -> str:
    stem = name.removesuffix(".safetensors")
    return stem.removesuffix("-fp8").removesuffix("-nvfp4")


def _in_memory(stored: int, format: str) -> int:
    return stored // 2 if format in _HALVED else stored
