"""Encoded prompts as files: one safetensors file each, in a folder of bounded size."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor

from .prompt import MAX_TOKENS, TAPS
from .safetensors_header import Tensor as Listed
from .safetensors_header import UnreadableFile, parse_header

log = logging.getLogger(__name__)

FORMAT = 1
COND = "cond"
WIDTH = len(TAPS) * 4096
_METADATA = "klein9b_prompt"
_ENDING = ".safetensors"
_UNFINISHED = ".unfinished"
_ABANDONED_S = 3600
_MOST_BYTES = 1 << 28
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64, "I32": torch.int32}
_WRONG = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError)


class Foreign(ValueError):
    """A file that is not the encoding it is named after; the message completes "<file name> ..."."""


@dataclass(frozen=True)
class Encoding:
    """What a text encoder made of one prompt.

    Attributes:
        tensors: `cond`, (1, tokens, 12288) float32 or bfloat16, and whatever came with it.
        without: names that came with it and stood for nothing.
        tokens: how many the prompt had, before any were cut.
    """

    tensors: Mapping[str, Tensor]
    without: tuple[str, ...] = field(default=())
    tokens: int = 0

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def copy(self) -> Encoding:
        """The same in memory of its own."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})


class PromptFiles:
    """Encodings by key, a short text fit for a file's name. Nothing here ever raises: what fails is said in the log.

    Several processes may share the folder: a file appears whole or not at all, and any may be gone at any moment.

    Args:
        most_bytes: of all files together; those used longest ago go first.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def find(self, key: str) -> Encoding | None:
        """The encoding kept under this key; None too where its file is not what was written."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                encoding = _read(file, path, key)
        except FileNotFoundError:
            return None
        except _WRONG as error:
            log.warning("Klein 9B encodes a prompt anew: %s %s.", path.name, _found(error))
            return None
        with suppress(OSError):
            os.utime(path)
        return encoding

    def keep(self, key: str, encoding: Encoding) -> None:
        try:
            self._write(key, encoding)
            self._make_room()
        except OSError as error:
            why = error.strerror or error
            log.warning("Klein 9B keeps no encoded prompt in %s (%s); this one is used all the same.", self.folder, why)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"

    def _write(self, key: str, encoding: Encoding) -> None:
        """Under another name first, which no other writer has."""
        if encoding.nbytes > min(self.most_bytes, _MOST_BYTES):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{key}.{os.getpid()}.{secrets.token_hex(4)}{_UNFINISHED}"
        try:
            unfinished.write_bytes(_serialised(key, encoding))
            os.replace(unfinished, self._path(key))
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def _make_room(self) -> None:
        files = sorted(self._files(_ENDING), key=lambda file: file[1].st_mtime_ns)
        excess = sum(status.st_size for _, status in files) - self.most_bytes
        for path, status in files:
            if excess <= 0:
                break
            with suppress(OSError):
                path.unlink()
                excess -= status.st_size
        for path, status in self._files(_UNFINISHED):
            if time.time() - status.st_mtime > _ABANDONED_S:
                with suppress(OSError):
                    path.unlink()

    def _files(self, ending: str) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(f"*{ending}"):
            with suppress(OSError):
                yield path, path.stat()


def _serialised(key: str, encoding: Encoding) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoding.tensors.items()}
    about = {
        "format": FORMAT,
        "key": key,
        "without": list(encoding.without),
        "tokens": encoding.tokens,
        "sums": {name: _sum(tensor) for name, tensor in tensors.items()},
    }
    return bytes(save(tensors, {_METADATA: json.dumps(about)}))


def _read(file: BinaryIO, path: Path, key: str) -> Encoding:
    """Into memory of its own: a mapped file that another process cuts short would end this one."""
    size = os.fstat(file.fileno()).st_size
    if size > _MOST_BYTES:
        raise Foreign("is too large for a prompt's encoding")
    header = parse_header(file, path, size)
    about = _about(header.metadata, key)
    data_start = file.tell()
    data = bytearray(size - data_start)
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise Foreign("was cut short while it was read")
    tensors = {name: _tensor(data, listed, data_start) for name, listed in header.tensors.items()}
    if {name: _sum(tensor) for name, tensor in tensors.items()} != about["sums"]:
        raise Foreign("has changed since it was written")
    return Encoding(_checked(tensors), tuple(map(str, about["without"])), int(about["tokens"]))


def _found(error: Exception) -> str:
    if isinstance(error, UnreadableFile):
        return error.found
    return str(error) if isinstance(error, Foreign) else f"cannot be used ({error})"


def _about(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    about = json.loads(metadata.get(_METADATA, "null"))
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise Foreign("is no encoded prompt of this format")
    if about.get("key") != key:
        raise Foreign("is another prompt's")
    return about


def _tensor(data: bytearray, listed: Listed, data_start: int) -> Tensor:
    dtype, start = _DTYPES.get(listed.dtype), listed.start - data_start
    if dtype is None or start % dtype.itemsize:
        raise Foreign(f"holds {listed.dtype}, as no encoding does")
    if not listed.elements:
        return torch.empty(listed.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=listed.elements, offset=start).view(listed.shape)


def _checked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    cond = tensors.get(COND)
    if cond is None or cond.dtype not in (torch.float32, torch.bfloat16):
        raise Foreign("holds no encoding")
    if cond.ndim != 3 or not (cond.shape[0] == 1 and 1 <= cond.shape[1] <= MAX_TOKENS and cond.shape[2] == WIDTH):
        raise Foreign(f"holds {list(cond.shape)} where an encoding is [1, up to {MAX_TOKENS}, {WIDTH}]")
    return tensors


def _sum(tensor: Tensor) -> int:
    """Of the bytes in words of eight: as fast as memory, and another for any single one that changed."""
    octets = tensor.reshape(-1).view(torch.uint8)
    whole = len(octets) // 8 * 8
    words = octets[:whole].view(torch.int64).sum() if whole else 0
    return int(words + octets[whole:].sum())
