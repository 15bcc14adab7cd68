"""How a file stores its weights: plain floats, or one of the quantised layouts ComfyUI 0.29 loads.

ComfyUI marks a quantised layer in one of three ways (its QUANTIZATION.md, comfy/utils.py convert_old_quants,
comfy/ops.py): the header's ``_quantization_metadata``, a ``<layer>.comfy_quant`` tensor holding JSON, or for
older fp8 files one ``scaled_fp8`` tensor with ``<layer>.scale_weight``. A quantised layer without a mark is
loaded as if its codes were the weights, which gives noise.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .safetensors_header import Header, Tensor, read_small_tensors

MODEL_PREFIX = "model.diffusion_model."
# A format with this share of the matrix parameters names the file: Klein 9B fp8 is 96 % fp8, the rest bf16.
_DOMINANT = 0.8

_DECLARED = {
    "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "int8_tensorwise": "int8", "nvfp4": "nvfp4",
    "mxfp8": "mxfp8", "convrot_w4a4": "convrot_w4a4",
}  # fmt: skip
_STORED = {
    "BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2",
    "I8": "int8", "U8": "uint8",
}  # fmt: skip
_SCALES = ("weight_scale", "scale_weight", "weight_scale_2")
_TWO_PER_BYTE = ("nvfp4", "convrot_w4a4")


@dataclass(frozen=True)
class Weights:
    """How the matrices are stored.

    format: bf16, fp16, fp32, fp8_e4m3, fp8_e5m2, int8, int8_convrot, nvfp4, mxfp8, convrot_w4a4, or mixed
    scaled: quantised layers carry scales
    parts: share of the matrix parameters in each format, largest first
    parameters: matrix parameters, two to a byte counted as two
    tensor_bytes: bytes of all tensors
    unmarked: quantised layers that carry none of ComfyUI's marks
    """

    format: str
    scaled: bool
    parts: Mapping[str, float]
    parameters: int
    tensor_bytes: int
    unmarked: int

    def __str__(self) -> str:
        if self.format == "mixed":
            return f"mixed ({', '.join(f'{name} {share:.0%}' for name, share in self.parts.items())})"
        return f"{self.format} with scales" if self.scaled else self.format


@dataclass(frozen=True)
class Matrix:
    """One matrix of a file.

    format: as in Weights. scale: name of the tensor that holds its scale, empty where none does.
    marked: it carries one of ComfyUI's marks.
    """

    layer: str
    stored: Tensor
    format: str
    scale: str
    marked: bool

    @property
    def parameters(self) -> int:
        """Two to a byte counted as two."""
        packed = self.format in _TWO_PER_BYTE and self.stored.dtype in ("U8", "I8")
        return self.stored.elements * (2 if packed else 1)

    @property
    def unmarked(self) -> bool:
        """Whether it is quantised and ComfyUI would not know."""
        return not self.marked and (bool(self.scale) or self.stored.dtype in ("I8", "U8"))


def matrices(header: Header) -> Iterator[Matrix]:
    """The matrices of a file in its header's order, from the header and the small comfy_quant tensors."""
    marks = _marks(header)
    for name, stored in header.tensors.items():
        if not name.endswith(".weight") or len(stored.shape) < 2:
            continue
        layer = name.removesuffix(".weight")
        mark = marks.get(layer, marks.get(layer.removeprefix(MODEL_PREFIX), {}))
        scale = next((f"{layer}.{one}" for one in _SCALES if f"{layer}.{one}" in header.tensors), "")
        yield Matrix(layer, stored, _format(header, layer, stored, mark), scale, bool(mark))


def weight_format(header: Header) -> Weights:
    """What the matrices of a file are stored as."""
    sizes: Counter[str] = Counter()
    scaled, unmarked = False, 0
    for matrix in matrices(header):
        sizes[matrix.format] += matrix.parameters
        scaled |= bool(matrix.scale)
        unmarked += matrix.unmarked
    total = sum(sizes.values())
    parts = {name: count / max(total, 1) for name, count in sizes.most_common()}
    stored = sum(tensor.end - tensor.start for tensor in header.tensors.values())
    return Weights(_dominant(parts), scaled, parts, total, stored, unmarked)


def _dominant(parts: Mapping[str, float]) -> str:
    name, share = next(iter(parts.items()), ("none", 1.0))
    return name if share >= _DOMINANT else "mixed"


def _format(header: Header, layer: str, tensor: Tensor, mark: Mapping[str, object]) -> str:
    declared = mark.get("format")
    if isinstance(declared, str):
        name = _DECLARED.get(declared, declared)
        return "int8_convrot" if name == "int8" and _is_rotated(mark) else name
    if tensor.dtype == "U8" and f"{layer}.weight_scale_2" in header.tensors:
        return "nvfp4"
    scale = header.tensors.get(f"{layer}.weight_scale")
    if tensor.dtype == "F8_E4M3" and scale is not None and scale.dtype in ("U8", "F8_E8M0"):
        return "mxfp8"
    return _STORED.get(tensor.dtype, tensor.dtype.lower())


def _is_rotated(mark: Mapping[str, object]) -> bool:
    params = mark.get("params")
    return bool(mark.get("convrot", params.get("convrot") if isinstance(params, dict) else False))


def _marks(header: Header) -> dict[str, Mapping[str, object]]:
    """Each marked layer with its JSON, such as {"format": "float8_e4m3fn"}."""
    if "_quantization_metadata" in header.metadata:
        layers = _json_object(header.metadata["_quantization_metadata"]).get("layers")
        found = layers if isinstance(layers, dict) else {}
    else:
        found = _legacy_fp8_marks(header)
    names = [name for name in header.tensors if name.endswith(".comfy_quant")]
    small = read_small_tensors(header, names)
    found |= {name.removesuffix(".comfy_quant"): _json_object(small.get(name, b"")) for name in names}
    return {layer: mark for layer, mark in found.items() if isinstance(mark, dict) and mark}


def _legacy_fp8_marks(header: Header) -> dict[str, object]:
    if not any(f"{prefix}scaled_fp8" in header.tensors for prefix in ("", MODEL_PREFIX)):
        return {}
    scales = (name for name in header.tensors if name.endswith(".scale_weight"))
    return {name.removesuffix(".scale_weight"): {"format": "float8_e4m3fn"} for name in scales}


def _json_object(text: str | bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
