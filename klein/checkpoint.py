"""What a weights file is, told from its safetensors header alone.

Families are told by FLUX.2's own marks (shared modulation, 128 latent channels) and the width of the text it
was trained on, not by hidden size or depth, so a small stand-in of Klein 9B is Klein 9B. Key names follow the
releases of Black Forest Labs and Comfy-Org; the rules were read from ComfyUI 0.29 (comfy/model_detection.py,
comfy/sd.py) and are tested against it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .flux3 import flux3_words
from .latent import LATENT_CHANNELS
from .prompt import LAST_LAYER, TAPS
from .safetensors_header import Header, read_header
from .variant import Variant, guess_variant
from .weight_format import MODEL_PREFIX, Weights, weight_format

HEAD_WIDTH = 128


class Family(Enum):
    KLEIN_9B = "FLUX.2 [klein] 9B"
    KLEIN_4B = "FLUX.2 [klein] 4B"
    FLUX2_DEV = "FLUX.2 [dev]"
    FLUX2_OTHER = "a FLUX.2 model of another size"
    FLUX1 = "FLUX.1"
    FLUX3 = "FLUX.3"
    OTHER = "other"


class Layout(Enum):
    """How the tensors are named; the host loads the first two of FLUX.2."""

    BFL = "BFL names"
    PREFIXED = "BFL names after model.diffusion_model."
    DIFFUSERS = "diffusers names"
    OTHER = "other"


class Encoder(Enum):
    QWEN3_8B = "Qwen3-8B"
    QWEN3_4B = "Qwen3-4B"
    QWEN3_VL_8B = "Qwen3-VL-8B"
    QWEN3_VL_4B = "Qwen3-VL-4B"
    OTHER = "other"


class VaeKind(Enum):
    FLUX2 = "the FLUX.2 VAE"
    FLUX2_SMALL_DECODER = "the FLUX.2 VAE with the small decoder"
    FLUX1 = "a 16-channel VAE of the FLUX.1 and SD3 kind"
    SD = "a 4-channel Stable Diffusion VAE"
    OTHER = "other"


class AddOn(Enum):
    LORA = "a LoRA"


Kind = Family | Encoder | VaeKind | AddOn


@dataclass(frozen=True)
class DiffusionModel:
    """name: the file in words. Widths and counts are as read from the shapes, 0 where there are none.

    holds: what the file is whatever it was taken for, as `identify` says. bundled: a text encoder or VAE is in the
    same file. missing: what FLUX.2 needs and the file lacks.
    """

    path: Path
    family: Family
    holds: Kind | None
    name: str
    hidden: int
    heads: int
    double_blocks: int
    single_blocks: int
    context: int
    in_channels: int
    guidance: bool
    layout: Layout
    weights: Weights
    variant: Variant
    bundled: bool
    missing: tuple[str, ...]


@dataclass(frozen=True)
class TextEncoder:
    """name: the file in words. holds: as in DiffusionModel.

    context: width of what it gives a FLUX.2 model, 0 where it fits none.
    read_bytes: of the tensors that Klein reads of it: not the layers behind the last it taps, nor what follows them.
    """

    path: Path
    kind: Encoder
    holds: Kind | None
    name: str
    hidden: int
    layers: int
    context: int
    weights: Weights
    read_bytes: int


@dataclass(frozen=True)
class Vae:
    """name: the file in words. holds: as in DiffusionModel.

    latent_channels: as the sampler sees them (FLUX.2: 32 in 2x2 patches are 128).
    encoder, decoder: channels of each half's first level (128 when full, less in the small decoder), 0 where
    that half is missing.
    """

    path: Path
    kind: VaeKind
    holds: Kind | None
    name: str
    latent_channels: int
    encoder: int
    decoder: int
    layout: Layout
    weights: Weights


def inspect_diffusion_model(path: str | os.PathLike[str]) -> DiffusionModel:
    """What the file is as a diffusion model; a wrong one is a value, not an error. Raises UnreadableFile."""
    header = read_header(path)
    names = _names(header)
    hidden, in_channels = header.shape(names.image_in)[:2]
    return DiffusionModel(
        path=header.path,
        family=family_of(header),
        holds=identify(header),
        name=describe(header),
        hidden=hidden,
        heads=hidden // HEAD_WIDTH,
        double_blocks=_count(header, names.double),
        single_blocks=_count(header, names.single),
        context=header.shape(names.text_in)[1],
        in_channels=in_channels,
        guidance=any("guidance_in." in name or "guidance_embedder." in name for name in header.tensors),
        layout=names.layout,
        weights=weight_format(header),
        variant=guess_variant(header.path.stem, header.metadata),
        bundled=_is_bundled(header),
        missing=tuple(name for name in names.required if name not in header.tensors),
    )


def inspect_text_encoder(path: str | os.PathLike[str]) -> TextEncoder:
    """What the file is as a text encoder; a wrong one is a value, not an error. Raises UnreadableFile."""
    header = read_header(path)
    stack = "model.language_model.layers." if _has(header, "model.language_model.") else "model.layers."
    hidden = header.length(f"{stack}0.post_attention_layernorm.weight")
    kind = encoder_kind(header)
    fits_flux2 = kind is not Encoder.OTHER or text_encoder_name(header) == _LLAMA_LIKE[_DEV_ENCODER_WIDTH]
    return TextEncoder(
        path=header.path,
        kind=kind,
        holds=identify(header),
        name=describe(header),
        hidden=hidden,
        layers=_count(header, stack),
        context=len(TAPS) * hidden if fits_flux2 else 0,
        weights=weight_format(header),
        read_bytes=_read_bytes(header, stack),
    )


def inspect_vae(path: str | os.PathLike[str]) -> Vae:
    """What the file is as a VAE; a wrong one is a value, not an error. Raises UnreadableFile."""
    header = read_header(path)
    kind = vae_kind(header)
    decoder_top, channels = header.shape("decoder.conv_in.weight")[:2]
    is_flux2 = kind in (VaeKind.FLUX2, VaeKind.FLUX2_SMALL_DECODER)
    return Vae(
        path=header.path,
        kind=kind,
        holds=identify(header),
        name=describe(header) if kind is VaeKind.OTHER else kind.value,
        latent_channels=channels * 4 if is_flux2 else channels,
        encoder=header.length("encoder.conv_in.weight"),
        decoder=decoder_top // _DECODER_WIDENING,
        layout=Layout.DIFFUSERS if _has(header, "decoder.up_blocks.") else Layout.BFL,
        weights=weight_format(header),
    )


def family_of(header: Header) -> Family:
    """The diffusion model's family; OTHER for LoRAs, text encoders, VAEs and models not related to FLUX."""
    if _is_lora(header):
        return Family.OTHER
    shaped = _family_by_shape(header)
    named = shaped is not Family.KLEIN_9B and not _holds_another(header) and flux3_words(header)
    return Family.FLUX3 if named else shaped


def _family_by_shape(header: Header) -> Family:
    names = _names(header)
    if names.layout is Layout.OTHER:
        return Family.OTHER
    if names.signature in header.tensors and header.shape(names.image_in)[1] == LATENT_CHANNELS:
        return _BY_CONTEXT.get(header.shape(names.text_in)[1], Family.FLUX2_OTHER)
    is_flux1 = names.flux1 in header.tensors and header.shape(names.text_in)[1] == _T5_WIDTH
    return Family.FLUX1 if is_flux1 else Family.OTHER


def encoder_kind(header: Header) -> Encoder:
    """Which of the text encoders we tell apart by kind the file is; every other one is OTHER."""
    name = text_encoder_name(header)
    return next((kind for kind in Encoder if kind.value == name), Encoder.OTHER)


def text_encoder_name(header: Header) -> str:
    """The text encoder's name as precisely as shapes allow, empty where the file is none."""
    tensors = header.tensors
    if "model.visual.deepstack_merger_list.0.norm.weight" in tensors:
        is_4b = header.length("model.visual.merger.linear_fc2.weight") == 2560
        return "Qwen3-VL-4B" if is_4b else "Qwen3-VL-8B"
    for key, name in _ENCODER_KEYS:
        if key in tensors:
            return name
    width = header.length("model.layers.0.post_attention_layernorm.weight")
    if "model.layers.0.self_attn.k_proj.bias" in tensors:
        return _QWEN25.get(width, f"a Qwen2.5 text encoder of width {width}")
    if "model.layers.0.self_attn.q_norm.weight" in tensors:
        return _QWEN3.get(width, f"a Qwen3 text encoder of width {width}")
    return _LLAMA_LIKE.get(width, f"a Llama-like text encoder of width {width}") if width else ""


def vae_kind(header: Header) -> VaeKind:
    """Which image VAE the file is; video VAEs, tiny VAEs, halves and everything else are OTHER."""
    shape = header.shape("decoder.conv_in.weight")
    if len(shape) != 4 or "encoder.conv_in.weight" not in header.tensors:
        return VaeKind.OTHER
    if "bn.running_mean" in header.tensors and 4 * shape[1] == LATENT_CHANNELS:
        full = shape[0] >= _DECODER_WIDENING * header.length("encoder.conv_in.weight")
        return VaeKind.FLUX2 if full else VaeKind.FLUX2_SMALL_DECODER
    return {4: VaeKind.SD, 16: VaeKind.FLUX1}.get(shape[1], VaeKind.OTHER)


def identify(header: Header) -> Kind | None:
    """What any safetensors file is, None where it is several models at once or none that has a kind."""
    if _is_lora(header):
        return AddOn.LORA
    if _is_bundled(header):
        return None
    kinds: tuple[Kind, ...] = (family_of(header), encoder_kind(header), vae_kind(header))
    return next((kind for kind in kinds if kind not in _OTHERS), None)


def describe(header: Header) -> str:
    """What any safetensors file is, in words that follow "is"."""
    if _is_lora(header):
        return AddOn.LORA.value
    family = family_of(header)
    if _is_bundled(header):
        held = f" of {family.value}" if family is not Family.OTHER else ""
        return f"a full checkpoint{held} (model, text encoder and VAE in one file)"
    if family is not Family.OTHER:
        return flux3_words(header) if family is Family.FLUX3 else family.value
    encoder = text_encoder_name(header)
    if encoder:
        return encoder if encoder.startswith("a ") else f"the text encoder {encoder}"
    other = next((name for key, name in _OTHER_KEYS if _has(header, key)), "")
    return _vae_words(header) or other or _unknown(header)


def shard(path: Path) -> tuple[int, int] | None:
    """(3, 5) for part 3 of 5 of a download that was split, None for a whole file."""
    found = re.search(r"-(\d{5})-of-(\d{5})$", path.stem)
    part, of = (int(found[1]), int(found[2])) if found else (1, 1)
    return (part, of) if of > 1 else None


@dataclass(frozen=True)
class _Names:
    """What the tensors of a FLUX transformer are called in one layout."""

    layout: Layout
    image_in: str
    text_in: str
    double: str
    single: str
    signature: str
    flux1: str
    required: tuple[str, ...] = ()


_REQUIRED = (
    "img_in.weight", "txt_in.weight", "time_in.in_layer.weight", "double_stream_modulation_txt.lin.weight",
    "single_stream_modulation.lin.weight", "single_blocks.0.linear1.weight",
    "final_layer.adaLN_modulation.1.weight", "final_layer.linear.weight",
)  # fmt: skip


def _bfl_names(layout: Layout, prefix: str) -> _Names:
    return _Names(
        layout,
        image_in=f"{prefix}img_in.weight",
        text_in=f"{prefix}txt_in.weight",
        double=f"{prefix}double_blocks.",
        single=f"{prefix}single_blocks.",
        signature=f"{prefix}double_stream_modulation_img.lin.weight",
        flux1=f"{prefix}double_blocks.0.img_mod.lin.weight",
        required=tuple(prefix + name for name in _REQUIRED),
    )


_BFL = _bfl_names(Layout.BFL, "")
_PREFIXED = _bfl_names(Layout.PREFIXED, MODEL_PREFIX)
_DIFFUSERS = _Names(
    Layout.DIFFUSERS,
    image_in="x_embedder.weight",
    text_in="context_embedder.weight",
    double="transformer_blocks.",
    single="single_transformer_blocks.",
    signature="double_stream_modulation_img.linear.weight",
    flux1="transformer_blocks.0.norm1.linear.weight",
)
_NONE = "(none)"
_NEITHER = _Names(Layout.OTHER, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)
_BY_CONTEXT = {12288: Family.KLEIN_9B, 7680: Family.KLEIN_4B, 15360: Family.FLUX2_DEV}
_OTHERS = (Family.OTHER, Encoder.OTHER, VaeKind.OTHER)
_T5_WIDTH = 4096
_DECODER_WIDENING = 4  # channel multiplier between the first and the last level of a KL autoencoder

_QWEN3 = {4096: "Qwen3-8B", 2560: "Qwen3-4B", 2048: "Qwen3-1.7B", 1024: "Qwen3-0.6B"}
_QWEN25 = {2048: "Qwen2.5-VL-3B", 3584: "Qwen2.5-VL-7B"}
_DEV_ENCODER_WIDTH = 5120
_LLAMA_LIKE = {_DEV_ENCODER_WIDTH: "Mistral-Small-3", 3072: "Ministral-3-3B", 4096: "Llama-3-8B"}
_ENCODER_KEYS = (
    ("text_model.encoder.layers.30.mlp.fc1.weight", "CLIP-G"),
    ("text_model.encoder.layers.22.mlp.fc1.weight", "CLIP-H"),
    ("text_model.encoder.layers.0.mlp.fc1.weight", "CLIP-L"),
    ("encoder.block.23.layer.1.DenseReluDense.wi_1.weight", "T5-XXL"),
    ("encoder.block.23.layer.1.DenseReluDense.wi.weight", "T5-XXL"),
    ("encoder.block.0.layer.0.SelfAttention.k.weight", "a small T5 text encoder"),
    ("model.layers.0.post_feedforward_layernorm.weight", "a Gemma text encoder"),
    ("layers.0.self_attn.sinks", "GPT-OSS"),
    ("model.language_model.layers.0.linear_attn.A_log", "a Qwen3.5 text encoder"),
)
_LORA_PARTS = (".lora_", ".lokr_", ".hada_", ".oft_blocks", ".diff_b")
_BUNDLED = ("first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.")
_OTHER_KEYS = (
    ("taesd_", "a tiny preview VAE (TAESD)"),
    ("decoder.layers.", "a tiny preview VAE (TAESD)"),
    ("3.conv.0.weight", "a tiny preview VAE (TAESD)"),
    ("decoder.middle.0.residual.", "a Wan or Qwen-Image VAE"),
    ("decoder.conv_in.conv.", "a video VAE"),
    ("decoder.conv_in.", "the decoder half of a VAE"),
    ("up.0.block.0.conv1.", "the decoder half of a VAE"),
    ("controlnet_", "a ControlNet"),
    ("control_", "a ControlNet"),
    ("distilled_guidance_layer.", "Chroma"),
    ("cap_embedder.", "a Lumina 2 or Z-Image model"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("input_blocks.", "a Stable Diffusion UNet"),
    ("model.diffusion_model.input_blocks.", "a Stable Diffusion UNet"),
    ("transformer_blocks.0.attn.add_q_proj.", "Qwen-Image or another two-stream model"),
)


def _names(header: Header) -> _Names:
    for names in (_PREFIXED, _BFL, _DIFFUSERS):
        if names.image_in in header.tensors or names.text_in in header.tensors:
            return names
    return _NEITHER


def _is_lora(header: Header) -> bool:
    return any(part in name for name in header.tensors for part in _LORA_PARTS)


def _holds_another(header: Header) -> bool:
    """Whether the file is a text encoder or a VAE, whatever model it is named after."""
    return bool(text_encoder_name(header)) or vae_kind(header) is not VaeKind.OTHER


def _is_bundled(header: Header) -> bool:
    return any(name.startswith(_BUNDLED) for name in header.tensors)


def _vae_words(header: Header) -> str:
    kind = vae_kind(header)
    if kind is not VaeKind.OTHER:
        return kind.value
    shape = header.shape("decoder.conv_in.weight")
    whole = "encoder.conv_in.weight" in header.tensors
    return f"a VAE of {shape[1]} latent channels" if whole and shape[1] else ""


def _count(header: Header, prefix: str) -> int:
    """How many consecutive blocks from 0 have any tensor, as the host counts them."""
    found = {name[len(prefix) :].split(".", 1)[0] for name in header.tensors if name.startswith(prefix)}
    count = 0
    while str(count) in found:
        count += 1
    return count


def _read_bytes(header: Header, stack: str) -> int:
    unread = re.compile(rf"lm_head\.|{re.escape(stack.removesuffix('layers.'))}norm\.|{re.escape(stack)}(\d+)\.")
    found = ((tensor, unread.match(name)) for name, tensor in header.tensors.items())
    return sum(t.end - t.start for t, hit in found if not hit or int(hit[1] or LAST_LAYER) < LAST_LAYER)


def _has(header: Header, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in header.tensors)


def _unknown(header: Header) -> str:
    first = next(iter(header.tensors), None)
    if first is None:
        return "a safetensors file without tensors"
    return f"none of the models this pack knows ({len(header.tensors)} tensors, the first is {first[:60]})"
