"""A safetensors file that is written in pieces, in any order, and gets its name when it is whole.

Its size is known before the first byte is written. Tensors lie as the safetensors library lays them: those of wide
dtypes first, so that each starts at a multiple of its element, then by name.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from .safetensors_header import BITS

UNFINISHED = ".partial"
_ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """A tensor to be written, its dtype as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Layout:
    """The header's bytes, where in the file each tensor starts, and the size of the file."""

    header: bytes
    starts: Mapping[str, int]
    nbytes: int


def layout(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> Layout:
    """The same entries and metadata give the same bytes, whatever their order."""
    listed: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offsets, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda one: (-BITS[one[1].dtype], one[0])):
        offsets[name] = end
        end += entry.nbytes
        listed[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (offsets[name], end)}
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: len(header) + offset for name, offset in offsets.items()}, len(header) + end)


class TensorFile:
    """An open file of a known layout."""

    def __init__(self, file: BinaryIO, place: Layout) -> None:
        self._file, self._starts = file, place.starts
        file.write(place.header)

    def write(self, name: str, data: bytes | memoryview, offset: int = 0) -> None:
        """offset: in bytes, from where the tensor starts."""
        self._file.seek(self._starts[name] + offset)
        self._file.write(data)


@contextmanager
def new_tensor_file(target: Path, place: Layout) -> Iterator[TensorFile]:
    """Every tensor is written inside; behind it the file is on disk under its name. After any error nothing is left.

    Raises:
        FileExistsError: `target` is there, or the same with .partial behind it, which another writer has or left.
        OSError: the disk is full, or the folder may not be written to.
    """
    unfinished = target.with_name(target.name + UNFINISHED)
    file = unfinished.open("xb")
    try:
        with file:
            yield TensorFile(file, place)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        unfinished.replace(target)
        _settle(target.parent)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _settle(folder: Path) -> None:
    """Puts a new name on disk; Windows and some network disks have no such call, and the bytes are there already."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
