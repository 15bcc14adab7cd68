"""The bytes of paid results, kept under their own hash: written once, never overwritten, never deleted."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from . import durable
from .media_types import EXTENSIONS

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One file of the vault.

    Attributes:
        size: in bytes.
    """

    sha256: str
    path: Path
    size: int


class Vault:
    """A folder of pictures named by the sha256 of their bytes; several processes may use it at once.

    Blocks on the disk: call it from a thread.

    Args:
        directory: made where it is missing, readable by its owner only.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        durable.make_folder(directory)

    def put(self, data: bytes, media_type: str) -> Kept:
        """Keeps `data` for good; when this returns, it survives a power cut.

        Args:
            media_type: image/png, image/jpeg or image/webp.

        Raises:
            ValueError: for another media type.
            OSError: the disk is full or read-only; nothing half-written is left under the picture's name.
        """
        if media_type not in EXTENSIONS:
            raise ValueError(f"the vault keeps {', '.join(EXTENSIONS)}, not {media_type!r}")
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._find(sha256)
        if path is None or _verified(path) is None:
            path = self.directory / (sha256 + EXTENSIONS[media_type])
            durable.replace(path, data)
        return Kept(sha256=sha256, path=path, size=len(data))

    def get(self, sha256: str) -> bytes | None:
        """The bytes with that hash, or None when they are not here or no longer what they were."""
        path = self._find(sha256)
        return _verified(path) if path else None

    def listing(self) -> list[Kept]:
        """Every picture kept, newest first, without reading them."""
        found = [(path, path.stat()) for path in self.directory.iterdir() if _names_a_picture(path)]
        found.sort(key=lambda entry: entry[1].st_mtime_ns, reverse=True)
        return [Kept(sha256=path.stem, path=path, size=status.st_size) for path, status in found]

    def _find(self, sha256: str) -> Path | None:
        if not SHA256.fullmatch(sha256):
            raise ValueError("a picture is named by the 64 lower-case hex digits of its sha256")
        paths = (self.directory / (sha256 + extension) for extension in EXTENSIONS.values())
        return next((path for path in paths if path.is_file()), None)


def _names_a_picture(path: Path) -> bool:
    return path.suffix in EXTENSIONS.values() and bool(SHA256.fullmatch(path.stem))


def _verified(path: Path) -> bytes | None:
    """The file's bytes if they still have the hash it is named by; else sets the file aside."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() == path.stem:
        return data
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.corrupt"))
    return None
