"""Klein 9B's model or text encoder into ComfyUI's own 8-bit format, one block of rows at a time.

The format is int8_tensorwise with convrot: each matrix inside the blocks is rotated in groups of 256 input features
and rounded to int8 with one float32 scale a row (comfy_kitchen/tensor/int8.py; `_load_quantized_module` in ComfyUI's
comfy/ops.py). All is computed in float32 from the stored values, where comfy_kitchen, given bfloat16, would round the
rotated weights to it first. What stands outside the blocks stays as it is, or becomes bfloat16.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from ..kernels.eager.quantize_rows import quantize_rows
from ..kernels.eager.rotate import rotate
from .checkpoint import Encoder, Family, Layout, identify, inspect_diffusion_model, inspect_text_encoder, shard
from .file_identity import file_identity
from .quantize_report import Layer, Report
from .safetensors_header import Header, Tensor, UnreadableFile, read_header
from .tensor_file import Entry, TensorFile, layout, new_tensor_file
from .variant import METADATA_KEY, VARIANTS, guess_variant
from .weight_format import Matrix, matrices, weight_format

FORMAT = "int8_tensorwise"
GROUP = 256
MADE_BY = "klein9b.quantized_by"
MADE_FROM = "klein9b.source"
_FORMAT_KEY = "klein9b.format"
_MARK = json.dumps({"format": FORMAT, "convrot": True, "convrot_groupsize": GROUP}).encode()
_BLOCK_ELEMENTS = 2**20
_BLOCK_BYTES = 2**24

_IN_BLOCKS = re.compile(r"(?:^|\.)(?:double_blocks|single_blocks|model\.layers)\.\d+\.")
_MARKS = (".comfy_quant", ".weight_scale", ".scale_weight", ".input_scale", ".scale_input", "scaled_fp8")
_HOSTS_MARKS = "_quantization_metadata"
_FP8 = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_READABLE = ("bf16", "fp16", "fp32", "fp64", *_FP8)
_DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

Hear = Callable[[int, int], None]


class CannotQuantize(ValueError):
    """The message is one sentence for the person who chose the file."""


@dataclass(frozen=True)
class Job:
    """A file that can be quantised, read no further than its header.

    Attributes:
        rounded: the matrices that become int8, by layer.
        decoded: matrices that stay, and are stored as fp8.
        entries: every tensor of the new file.
    """

    header: Header
    rounded: Mapping[str, Matrix]
    decoded: Mapping[str, Matrix]
    entries: Mapping[str, Entry]


def plan_job(path: Path) -> Job:
    """What will become of each tensor.

    Raises:
        CannotQuantize: it is neither Klein 9B nor Qwen3-8B, not whole, or in a format that has lost too much already.
    """
    header = _read_klein(path)
    found = tuple(matrices(header))
    _check_formats(path, header, found)
    rounded = {one.layer: one for one in found if _is_rounded(one)}
    if not rounded:
        raise CannotQuantize(f"{path.name} has no matrix with a multiple of {GROUP} input features to quantise.")
    decoded = {one.layer: one for one in found if one.layer not in rounded and one.format in _FP8}
    return Job(header, rounded, decoded, dict(_entries(header, rounded)))


def new_size(job: Job, metadata: Mapping[str, str]) -> int:
    """Bytes of the file that `quantize` would write."""
    return layout(job.entries, _metadata(job, metadata)).nbytes


def quantize(job: Job, target: Path, metadata: Mapping[str, str], hear: Hear) -> Report:
    """Writes `target` beside everything that is there. After an error, or whatever `hear` raises, nothing is left.

    Args:
        metadata: to be kept in the header beside what the source's says.
        hear: is told, after each block, how many bytes are done of how many.

    Raises:
        CannotQuantize: the source changed or ended meanwhile, or a weight is not finite.
        OSError: as new_tensor_file.
    """
    path = job.header.path
    before = file_identity(path)
    place = layout(job.entries, _metadata(job, metadata))
    with path.open("rb") as source, new_tensor_file(target, place) as made:
        layers = _write_all(_Source(job.header, source, hear), job, made)
        if file_identity(path) != before:
            raise CannotQuantize(f"{path.name} changed while it was read: wait until it is whole, and run this again.")
    return Report(path.name, target.name, layers, _kept(job), job.header.file_size, place.nbytes)


def _read_klein(path: Path) -> Header:
    part = shard(path)
    if part:
        raise CannotQuantize(f"{path.name} is part {part[0]} of {part[1]} of a split download: choose one whole file.")
    try:
        header = read_header(path)
        why = _why_not(path, header)
    except UnreadableFile as error:
        raise CannotQuantize(str(error)) from error
    if why:
        raise CannotQuantize(f"{path.name} is {why}: choose FLUX.2 [klein] 9B or its text encoder Qwen3-8B.")
    return header


def _why_not(path: Path, header: Header) -> str:
    """What the file is, where it is not what can be quantised."""
    kind = identify(header)
    model = inspect_diffusion_model(path)
    if kind is Encoder.QWEN3_8B:
        return "" if inspect_text_encoder(path).layers else f"{model.name} without layers"
    if kind is not Family.KLEIN_9B:
        return model.name
    if model.layout is Layout.DIFFUSERS:
        return f"{model.name} in diffusers' tensor names, which ComfyUI does not read for FLUX.2"
    return f"{model.name} without its tensor {model.missing[0]}" if model.missing else ""


def _check_formats(path: Path, header: Header, found: tuple[Matrix, ...]) -> None:
    weights = weight_format(header)
    if weights.format.startswith("int8"):
        raise CannotQuantize(f"{path.name} is {weights.format} already.")
    if any(one.format not in _READABLE for one in found):
        raise CannotQuantize(
            f"{path.name} is {weights}, which has lost more than int8 would keep: choose the file in bf16 or fp8."
        )
    if weights.unmarked:
        raise CannotQuantize(f"{path.name} is {weights} but without ComfyUI's marks for that, so it loads as noise.")
    uneven = next((one for one in found if one.scale and header.tensors[one.scale].elements != 1), None)
    if uneven:
        raise CannotQuantize(f"{path.name} has more than one scale in {uneven.scale}, which no fp8 of ComfyUI's has.")


def _is_rounded(one: Matrix) -> bool:
    shape = one.stored.shape
    return len(shape) == 2 and shape[1] % GROUP == 0 and shape[1] > 0 and bool(_IN_BLOCKS.search(one.layer))


def _entries(header: Header, rounded: Mapping[str, Matrix]) -> Iterator[tuple[str, Entry]]:
    for name, tensor in header.tensors.items():
        layer = name.removesuffix(".weight")
        if layer in rounded:
            yield name, Entry("I8", tensor.shape)
            yield f"{name}_scale", Entry("F32", (tensor.shape[0], 1))
            yield f"{layer}.comfy_quant", Entry("U8", (len(_MARK),))
        elif not _is_mark(name):
            yield name, Entry(_kept_dtype(tensor), tensor.shape)


def _is_mark(name: str) -> bool:
    """Whether it tells how a matrix is stored, which the new file tells anew."""
    return name.endswith(_MARKS)


def _kept_dtype(tensor: Tensor) -> str:
    """Wide matrices and anything in fp8 become bfloat16; norms keep what they have."""
    is_wide = tensor.dtype in ("F32", "F64") and len(tensor.shape) > 1
    return "BF16" if is_wide or tensor.dtype in ("F8_E4M3", "F8_E5M2") else tensor.dtype


def _kept(job: Job) -> tuple[str, ...]:
    layers = (name.removesuffix(".weight") for name, entry in job.entries.items() if len(entry.shape) > 1)
    return tuple(one for one in layers if one not in job.rounded and not one.endswith("_scale"))


def _metadata(job: Job, made: Mapping[str, str]) -> dict[str, str]:
    """The source's own without its marks; what the file says of its variant, which its new name may not."""
    header = job.header
    kept = {key: value for key, value in header.metadata.items() if key != _HOSTS_MARKS}
    variant = guess_variant(header.path.stem, header.metadata).name
    said = {METADATA_KEY: variant} if variant in VARIANTS and identify(header) is Family.KLEIN_9B else {}
    return kept | said | {MADE_FROM: header.path.name, _FORMAT_KEY: f"{FORMAT} convrot {GROUP}"} | dict(made)


@dataclass
class _Source:
    """The file being read, and how far.

    Attributes:
        done: bytes of its tensors that were read.
    """

    header: Header
    file: BinaryIO
    hear: Hear
    done: int = 0

    def read(self, tensor: Tensor, first: int, count: int) -> bytearray:
        """`count` bytes of a tensor from its byte `first`.

        Raises:
            CannotQuantize: they are not there any more, or the disk does not give them.
        """
        data = bytearray(count)
        try:
            self.file.seek(tensor.start + first)
            found = self.file.readinto(data)  # type: ignore[attr-defined]
        except OSError as error:
            raise CannotQuantize(f"{self.header.path.name} cannot be read ({error.strerror or error}).") from error
        if found != count:
            raise CannotQuantize(f"{self.header.path.name} became shorter while it was read: download it again.")
        self.done += count
        return data

    def told(self) -> None:
        self.hear(self.done, sum(one.end - one.start for one in self.header.tensors.values()))

    def blocks(self, tensor: Tensor, elements: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The first element and the elements of each block, flat, in the stored dtype."""
        dtype = _DTYPES[tensor.dtype]
        for first in range(0, tensor.elements, elements):
            count = min(elements, tensor.elements - first)
            data = self.read(tensor, first * dtype.itemsize, count * dtype.itemsize)
            yield first, torch.frombuffer(data, dtype=dtype)
            self.told()

    def scale(self, matrix: Matrix) -> float:
        """Of an fp8 matrix; 1 where it has none."""
        if not matrix.scale:
            return 1.0
        tensor = self.header.tensors[matrix.scale]
        data = self.read(tensor, 0, tensor.end - tensor.start)
        return float(torch.frombuffer(data, dtype=_DTYPES[tensor.dtype]).float())


def _write_all(source: _Source, job: Job, made: TensorFile) -> tuple[Layer, ...]:
    """In the order in which the source has them."""
    layers = []
    for name, tensor in sorted(job.header.tensors.items(), key=lambda one: one[1].start):
        layer = name.removesuffix(".weight")
        if layer in job.rounded:
            layers.append(_round(source, job.rounded[layer], made))
        elif not _is_mark(name):
            _keep(source, name, tensor, job.decoded.get(layer), made)
    return tuple(layers)


def _round(source: _Source, matrix: Matrix, made: TensorFile) -> Layer:
    """One matrix, so many whole rows at a time."""
    name = f"{matrix.layer}.weight"
    rows, columns = matrix.stored.shape
    lost = there = 0.0
    decode = _decoder(source, matrix)
    for first, flat in source.blocks(matrix.stored, max(1, _BLOCK_ELEMENTS // columns) * columns):
        rotated = rotate(decode(flat).view(-1, columns), GROUP)
        levels, scale = quantize_rows(rotated)
        if not scale.isfinite().all():
            raise CannotQuantize(f"{source.header.path.name} has weights in {name} that are not finite numbers.")
        made.write(name, _bytes(levels), first)
        made.write(f"{name}_scale", _bytes(scale), first // columns * scale.element_size())
        lost += _square_sum((levels * scale).sub_(rotated))
        there += _square_sum(rotated)
    made.write(f"{matrix.layer}.comfy_quant", _MARK)
    return Layer(matrix.layer, (rows, columns), (lost / there) ** 0.5 if there else 0.0)


def _square_sum(rows: torch.Tensor) -> float:
    """Row by row in float32, which is ten times as fast as all of it in float64, and as near as a report needs."""
    return rows.square_().sum(dim=-1).sum(dtype=torch.float64).item()


def _decoder(source: _Source, matrix: Matrix) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the stored numbers to float32; codes in fp8 times their scale, as ComfyUI reads them."""
    code = _FP8.get(matrix.format)
    if code is None:
        return torch.Tensor.float
    scale = source.scale(matrix)
    return lambda flat: flat.to(code).float().mul_(scale)


def _keep(source: _Source, name: str, tensor: Tensor, matrix: Matrix | None, made: TensorFile) -> None:
    if _kept_dtype(tensor) == tensor.dtype and matrix is None:
        return _copy(source, name, tensor, made)
    decode = _decoder(source, matrix) if matrix else torch.Tensor.float
    for first, flat in source.blocks(tensor, _BLOCK_ELEMENTS):
        kept = decode(flat).to(torch.bfloat16)
        made.write(name, _bytes(kept), first * kept.element_size())


def _copy(source: _Source, name: str, tensor: Tensor, made: TensorFile) -> None:
    size = tensor.end - tensor.start
    for first in range(0, size, _BLOCK_BYTES):
        made.write(name, bytes(source.read(tensor, first, min(_BLOCK_BYTES, size - first))), first)
        source.told()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
