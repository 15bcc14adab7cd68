"""Encoded prompts, kept in RAM and, where their key outlives this process, on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from .prompt_files import Encoding, PromptFiles

RAM_BYTES = 64 << 20
DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class PromptKey:
    """All that an encoding depends on.

    Attributes:
        digest: of it, as hexadecimal text.
        process: what of it only this process can tell apart, None where there is no such thing.
    """

    digest: str
    process: Hashable = None

    @property
    def outlives_process(self) -> bool:
        return self.process is None


@dataclass(frozen=True)
class Found:
    """An encoding and where it was: "RAM" or "disk"."""

    encoding: Encoding
    place: str


class PromptStore:
    """The least recently used encodings, within so many bytes in RAM and on disk. Never raises.

    What is kept shares no memory with what came in or goes out, whatever others write into that.

    Args:
        folder: for the files; made when there is something to keep.
    """

    def __init__(self, folder: Path, *, ram_bytes: int = RAM_BYTES, disk_bytes: int = DISK_BYTES) -> None:
        self.files = PromptFiles(folder, disk_bytes)
        self.ram_bytes = ram_bytes
        self._kept: OrderedDict[PromptKey, Encoding] = OrderedDict()

    def find(self, key: PromptKey) -> Found | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return Found(self._kept[key].copy(), "RAM")
        encoding = self.files.find(key.digest) if key.outlives_process else None
        if encoding is None:
            return None
        self._remember(key, encoding)
        return Found(encoding, "disk")

    def keep(self, key: PromptKey, encoding: Encoding) -> None:
        self._remember(key, encoding)
        if key.outlives_process:
            self.files.keep(key.digest, encoding)

    def _remember(self, key: PromptKey, encoding: Encoding) -> None:
        self._kept[key] = encoding.copy()
        self._kept.move_to_end(key)
        while sum(one.nbytes for one in self._kept.values()) > self.ram_bytes:
            self._kept.popitem(last=False)
