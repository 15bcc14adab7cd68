"""What a safetensors file lists in its header, read without touching the weights.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length N, N bytes of JSON
naming every tensor's dtype, shape and byte range, then the data. Reading costs the header's size, never the
file's: an 18 GB model takes milliseconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own bound
_MAX_INT_DIGITS = 20  # 2**64 has 20; longer ones are hostile and slow to parse
_MAX_DIMS = 64  # as many as torch itself allows
_SNIFFED_BYTES = 256
_SMALL_TENSOR_BYTES = 4096
_ZIP = b"PK\x03\x04"

BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class UnreadableFile(ValueError):
    """A file that is not whole safetensors. ``found`` completes the sentence "<file name> ..."."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path.name} {found}.")
        self.path = path
        self.found = found


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header lists it; ``start`` and ``end`` are byte offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The tensors by name, the file's own metadata strings, and the size of the file in bytes."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    file_size: int

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape; (0, 0) where the file has no such matrix, so that widths read as 0."""
        tensor = self.tensors.get(name)
        return tensor.shape if tensor and len(tensor.shape) >= 2 else (0, 0)

    def length(self, name: str) -> int:
        """The tensor's first dimension, 0 where it is missing or a scalar."""
        tensor = self.tensors.get(name)
        return tensor.shape[0] if tensor and tensor.shape else 0


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file.

    Raises UnreadableFile, which says what the file is instead: missing, empty, cut short, a pickle, a GGUF,
    a web page, a git-lfs pointer, a text message.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return parse_header(file, path, os.fstat(file.fileno()).st_size)
    except IsADirectoryError:
        raise UnreadableFile(path, "is a folder, not a file") from None
    except FileNotFoundError:
        raise UnreadableFile(path, "is not there") from None
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read ({error.strerror or error})") from error


def parse_header(file: BinaryIO, path: Path, file_size: int) -> Header:
    """As read_header, from an open file at its beginning; reads 8 bytes plus the header."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    is_zip = prefix.startswith(_ZIP) and 8 + length > file_size  # its first bytes can pass for a length
    if len(prefix) < 8 or not 2 <= length <= MAX_HEADER_BYTES or is_zip:
        raise UnreadableFile(path, _what_it_is(prefix + file.read(_SNIFFED_BYTES)))
    if 8 + length > file_size:
        raise UnreadableFile(path, f"is cut short (a header of {length:,} bytes, a file of {file_size:,})")
    entries = _json_object(file.read(length), path)
    metadata = _metadata(entries.pop("__metadata__", None), path)
    tensors = {name: _tensor(name, entry, 8 + length, path) for name, entry in entries.items()}
    _check_extent(tensors.values(), 8 + length, file_size, path)
    return Header(path, tensors, metadata, file_size)


def read_small_tensors(header: Header, names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of a few tensors of at most 4 KiB each; larger or missing ones are left out."""
    wanted = {name: header.tensors[name] for name in names if name in header.tensors}
    small = {name: t for name, t in wanted.items() if t.end - t.start <= _SMALL_TENSOR_BYTES}
    if not small:
        return {}
    with header.path.open("rb") as file:
        return {name: _read_at(file, tensor) for name, tensor in small.items()}


def _read_at(file: BinaryIO, tensor: Tensor) -> bytes:
    file.seek(tensor.start)
    return file.read(tensor.end - tensor.start)


def _json_object(raw: bytes, path: Path) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise UnreadableFile(path, "is not a safetensors file (its header is not a JSON object)")
    try:
        value = json.loads(raw, parse_int=_bounded_int, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UnreadableFile(path, "is damaged (its safetensors header is not valid JSON)") from None
    return dict(value)


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_INT_DIGITS:
        raise ValueError("integer too long")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _metadata(entry: object, path: Path) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise UnreadableFile(path, "is damaged (its header's metadata are not plain strings)")
    return entry


def _tensor(name: str, entry: object, data_start: int, path: Path) -> Tensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, span = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS or shape is None or span is None or len(span) != 2:
        raise UnreadableFile(path, f"is damaged (its header describes {name[:80]!r} wrongly)")
    tensor = Tensor(dtype, shape, data_start + span[0], data_start + span[1])
    if tensor.elements * BITS[dtype] != 8 * (tensor.end - tensor.start):
        raise UnreadableFile(path, f"is damaged ({name[:80]!r} does not fill its place in the file)")
    return tensor


def _sizes(value: object) -> tuple[int, ...] | None:
    """A short list of plain non-negative 64-bit integers (bool is an int in Python, not in JSON)."""
    if not isinstance(value, list) or len(value) > _MAX_DIMS:
        return None
    return tuple(value) if all(type(item) is int and 0 <= item < 2**64 for item in value) else None


def _check_extent(tensors: Iterable[Tensor], data_start: int, file_size: int, path: Path) -> None:
    end = data_start
    for tensor in sorted(tensors, key=lambda t: (t.start, t.end)):
        if tensor.start != end:
            raise UnreadableFile(path, "is damaged (its tensors overlap or leave gaps)")
        end = tensor.end
    if end > file_size:
        raise UnreadableFile(path, f"is cut short ({_size(file_size)} of {_size(end)} are there)")
    if end < file_size:
        raise UnreadableFile(path, f"is damaged ({file_size - end:,} bytes follow its last tensor)")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count:,} bytes"


def _what_it_is(start: bytes) -> str:
    """The clause for a file whose first bytes cannot open a safetensors file."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty"
    if start.startswith(b"GGUF"):
        return "is a GGUF file, which only a GGUF loader node reads"
    if start.startswith((_ZIP, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "is a PyTorch pickle (.pt, .ckpt), not safetensors"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, a few lines of text in place of the weights"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page saved under this name, not weights"
    if not start.strip(b"\0"):
        return "begins with zeros, as an unfinished download does"
    return _text_or_unknown(start)


def _text_or_unknown(start: bytes) -> str:
    words = " ".join(start[:60].decode("ascii", "replace").split())
    if words.isascii() and words.isprintable() and words:
        return f"is a text, not weights (it begins {words!r})"
    return "is not a safetensors file"
