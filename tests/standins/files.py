"""Stand-in weights under the file names people have, laid out as a ComfyUI models folder."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .loras import OF_BFL, bfl_linears, lora
from .quantised import quantised
from .text_encoder import text_encoder
from .transformer import transformer
from .vae import vae

CHECKPOINTS = {
    "flux-2-klein-9b.safetensors": 9,
    "flux-2-klein-9b-fp8.safetensors": 9,
    "flux-2-klein-base-9b.safetensors": 10,
    "flux-2-klein-base-9b-fp8.safetensors": 10,
    "flux-2-klein-9b-kv-fp8.safetensors": 11,
}
NVFP4 = "flux-2-klein-9b-nvfp4.safetensors"
TEXT_ENCODER = "qwen_3_8b_fp8mixed.safetensors"
FULL_TEXT_ENCODER = "qwen_3_8b.safetensors"
FP4_TEXT_ENCODER = "qwen_3_8b_fp4mixed.safetensors"
LORA = "klein-9b-lora.safetensors"
VAES = {"flux2-vae.safetensors": 16, "full_encoder_small_decoder.safetensors": 16}


def _save(weights: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.replace(path)


def _write_once(path: Path, make) -> None:
    if not path.exists():
        _save(make(), path)


def write_models(models: Path) -> None:
    """Writes what is missing. Float32 but for the nvfp4 files; text encoders are bfloat16 to halve their size."""
    for name, seed in CHECKPOINTS.items():
        _write_once(models / "diffusion_models" / name, lambda seed=seed: transformer(seed=seed))
    for name, seed in VAES.items():
        _write_once(models / "vae" / name, lambda seed=seed: vae(seed=seed))
    _write_once(models / "diffusion_models" / NVFP4, lambda: quantised(transformer(seed=9), "nvfp4"))
    _write_once(models / "text_encoders" / TEXT_ENCODER, _in_bfloat16)
    if not (full := models / "text_encoders" / FULL_TEXT_ENCODER).exists():
        full.hardlink_to(models / "text_encoders" / TEXT_ENCODER)
    _write_once(models / "text_encoders" / FP4_TEXT_ENCODER, _in_fp4mixed)
    _write_once(models / "loras" / LORA, lambda: lora(OF_BFL["kohya"], bfl_linears(transformer()))[0])


def _in_bfloat16() -> dict[str, Tensor]:
    return {name: weight.to(torch.bfloat16) for name, weight in text_encoder().items()}


def _in_fp4mixed() -> dict[str, Tensor]:
    return quantised(quantised(_in_bfloat16(), "nvfp4", r"\.mlp\."), "float8_e4m3fn", r"\.self_attn\..*_proj")
