"""What trainers call Klein's linear layers, and the rows of which weight each name means.

Klein's file has 121 matrices; diffusers has 153 linears for them, since it keeps queries, keys and values of the double
blocks apart. A name is looked up without its prefix and with every dot as an underscore, so the dotted names (BFL,
diffusers, PEFT, ai-toolkit, fal, OneTrainer), the flat ones (kohya, LyCORIS) and the half flat ones (musubi's converted
files) are one table. Names were read from diffusers 0.42.1 (lora_conversion_utils.py) and ComfyUI 0.29
(comfy/utils.py, flux_to_diffusers).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from .latent import LATENT_CHANNELS
from .vram import MLP_RATIO, Dims

_PREFIXES = (
    "base_model_model_", "model_diffusion_model_", "diffusion_model_", "lora_unet_", "lora_transformer_", "lycoris_",
    "transformer_", "unet_", "model_",
)  # fmt: skip
_TIME_WIDTH = 256
_LINEAR_1 = 3 + 2 * MLP_RATIO
_LINEAR_2 = 1 + MLP_RATIO


@dataclass(frozen=True)
class Place:
    """Rows of one of Klein's matrices.

    Attributes:
        layer: the matrix in BFL's names, without ".weight".
        start, rows: those that the name means.
        columns: all of them.
        of_rows: how many rows the matrix has.
        halves_swapped: the name's first half of rows is the matrix's second. diffusers keeps the scale of its last
            norm before the shift, BFL and ComfyUI after it.
    """

    layer: str
    start: int
    rows: int
    columns: int
    of_rows: int
    halves_swapped: bool = False

    @property
    def whole(self) -> bool:
        return self.rows == self.of_rows


def find_place(module: str, dims: Dims) -> Place | None:
    """Where a module of a LoRA file belongs; None where Klein has no such layer."""
    known, name = _places(dims), module.replace(".", "_").strip("_")
    while name not in known:
        prefix = next((one for one in _PREFIXES if name.startswith(one)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix).lstrip("_")
    return known[name]


def layer_names(dims: Dims) -> list[str]:
    """Klein's matrices in BFL's names."""
    return [name for name, _, _ in _matrices(dims)]


@functools.lru_cache(maxsize=8)
def _places(dims: Dims) -> dict[str, Place]:
    places = {}
    for layer, rows, columns in _matrices(dims):
        whole = Place(layer, 0, rows, columns, rows)
        for name, start, count in _names(layer, dims.hidden):
            place = Place(layer, start, count, columns, rows) if count else whole
            places[name.replace(".", "_")] = place
    last = places["norm_out_linear"]
    places["norm_out_linear"] = Place(last.layer, 0, last.rows, last.columns, last.rows, halves_swapped=True)
    return places


def _matrices(dims: Dims) -> Iterator[tuple[str, int, int]]:
    """Name, rows, columns."""
    hidden = dims.hidden
    for i in range(dims.double_blocks):
        for stream in ("img", "txt"):
            yield f"double_blocks.{i}.{stream}_attn.qkv", 3 * hidden, hidden
            yield f"double_blocks.{i}.{stream}_attn.proj", hidden, hidden
            yield f"double_blocks.{i}.{stream}_mlp.0", 2 * MLP_RATIO * hidden, hidden
            yield f"double_blocks.{i}.{stream}_mlp.2", hidden, MLP_RATIO * hidden
    for i in range(dims.single_blocks):
        yield f"single_blocks.{i}.linear1", _LINEAR_1 * hidden, hidden
        yield f"single_blocks.{i}.linear2", hidden, _LINEAR_2 * hidden
    yield "img_in", hidden, LATENT_CHANNELS
    yield "txt_in", hidden, dims.context
    yield "time_in.in_layer", hidden, _TIME_WIDTH
    yield "time_in.out_layer", hidden, hidden
    yield "double_stream_modulation_img.lin", 6 * hidden, hidden
    yield "double_stream_modulation_txt.lin", 6 * hidden, hidden
    yield "single_stream_modulation.lin", 3 * hidden, hidden
    yield "final_layer.adaLN_modulation.1", 2 * hidden, hidden
    yield "final_layer.linear", LATENT_CHANNELS, hidden


def _names(layer: str, hidden: int) -> Iterator[tuple[str, int, int]]:
    """What a matrix and its parts are called: name, first row, rows, the last two 0 for the whole."""
    yield layer, 0, 0
    kind, _, rest = layer.partition(".")
    if kind in _IN_BLOCKS:
        index, _, part = rest.partition(".")
        blocks, of_part = _IN_BLOCKS[kind]
        for block, (name, start, count) in itertools.product(blocks, of_part[part]):
            yield f"{block}.{index}.{name}", start * hidden, count * hidden
    for name in _AROUND_BLOCKS.get(layer, ()):
        yield name, 0, 0


# In widths of the model: name, first row, rows, the last two 0 for the whole.
_Names = tuple[tuple[str, int, int], ...]
_DOUBLE: dict[str, _Names] = {
    "img_attn.qkv": (
        ("attn.to_q", 0, 1), ("attn.to_k", 1, 1), ("attn.to_v", 2, 1), ("attn.to_qkv", 0, 0),
    ),
    "txt_attn.qkv": (
        ("attn.add_q_proj", 0, 1), ("attn.add_k_proj", 1, 1), ("attn.add_v_proj", 2, 1), ("attn.to_added_qkv", 0, 0),
    ),
    "img_attn.proj": (("attn.to_out.0", 0, 0),),
    "txt_attn.proj": (("attn.to_add_out", 0, 0),),
    "img_mlp.0": (("ff.linear_in", 0, 0), ("ff.net.0.proj", 0, 0)),
    "img_mlp.2": (("ff.linear_out", 0, 0), ("ff.net.2", 0, 0)),
    "txt_mlp.0": (("ff_context.linear_in", 0, 0), ("ff_context.net.0.proj", 0, 0)),
    "txt_mlp.2": (("ff_context.linear_out", 0, 0), ("ff_context.net.2", 0, 0)),
}  # fmt: skip
_SINGLE: dict[str, _Names] = {
    "linear1": (
        ("attn.to_qkv_mlp_proj", 0, 0), ("attn.to_q", 0, 1), ("attn.to_k", 1, 1), ("attn.to_v", 2, 1),
        ("proj_mlp", 3, 2 * MLP_RATIO),
    ),
    "linear2": (("attn.to_out", 0, 0), ("proj_out", 0, 0)),
}  # fmt: skip
_IN_BLOCKS = {
    "double_blocks": (("transformer_blocks", "sformer_blocks"), _DOUBLE),  # the second as some exports cut it
    "single_blocks": (("single_transformer_blocks",), _SINGLE),
}
_AROUND_BLOCKS = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": (
        "time_guidance_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_1",
    ),
    "time_in.out_layer": (
        "time_guidance_embed.timestep_embedder.linear_2", "time_text_embed.timestep_embedder.linear_2",
    ),
    "double_stream_modulation_img.lin": ("double_stream_modulation_img.linear",),
    "double_stream_modulation_txt.lin": ("double_stream_modulation_txt.linear",),
    "single_stream_modulation.lin": ("single_stream_modulation.linear",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}  # fmt: skip
