"""The official files of Klein 9B and their sizes, for a person who has not downloaded them yet.

Bytes as Hugging Face lists them in November 2026; the released bf16 KV file is taken to be as large as its twins.
"""

from __future__ import annotations

from dataclasses import dataclass

_BF16, _FP8, _NVFP4 = "bf16", "fp8_e4m3", "nvfp4"
_EMBEDDING = 151936 * 4096 * 2  # Qwen3-8B's, in bfloat16 in every release


@dataclass(frozen=True)
class OfficialFile:
    """One file before it is there.

    Attributes:
        size: bytes to download.
        format: of its matrices, as klein.weight_format names them.
        embedding: bytes of a text encoder's token embedding; 0 in other files.
        head: bytes of a text encoder's output matrix, which Klein does not read; the mixed files have none.
        decoder: channels of a VAE's last level; 0 in other files.
    """

    size: int
    format: str
    embedding: int = 0
    head: int = 0
    decoder: int = 0


DIFFUSION_MODELS = {
    "flux-2-klein-9b.safetensors": OfficialFile(18_157_185_168, _BF16),
    "flux-2-klein-9b-fp8.safetensors": OfficialFile(9_433_061_528, _FP8),
    "flux-2-klein-9b-nvfp4.safetensors": OfficialFile(5_760_960_048, _NVFP4),
    "flux-2-klein-base-9b.safetensors": OfficialFile(18_157_185_168, _BF16),
    "flux-2-klein-base-9b-fp8.safetensors": OfficialFile(9_567_278_472, _FP8),
    "flux-2-klein-base-9b-nvfp4.safetensors": OfficialFile(5_809_193_808, _NVFP4),
    "flux-2-klein-9b-kv.safetensors": OfficialFile(18_157_185_168, _BF16),
    "flux-2-klein-9b-kv-fp8.safetensors": OfficialFile(9_818_935_984, _FP8),
}
TEXT_ENCODERS = {
    "qwen_3_8b_fp8mixed.safetensors": OfficialFile(8_664_848_742, _FP8, _EMBEDDING),
    "qwen_3_8b_fp4mixed.safetensors": OfficialFile(6_802_593_327, _NVFP4, _EMBEDDING),
    "qwen_3_8b.safetensors": OfficialFile(16_381_517_176, _BF16, _EMBEDDING, head=_EMBEDDING),
}
VAES = {
    "flux2-vae.safetensors": OfficialFile(336_213_556, "fp32", decoder=128),
    "full_encoder_small_decoder.safetensors": OfficialFile(249_519_092, "fp32", decoder=96),
}
