"""What tells one weights file from another without reading its weights."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .safetensors_header import MAX_HEADER_BYTES


@dataclass(frozen=True)
class FileIdentity:
    """Differs once a file is replaced or written to, wherever it lies.

    Attributes:
        size: in bytes.
        modified_ns, changed_ns: of its contents, and of its entry in the file system, which no copying tool sets back.
        header: SHA-256 of the safetensors header, hexadecimal.
    """

    size: int
    modified_ns: int
    changed_ns: int
    header: str


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """Reads the header and nothing else.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        prefix = file.read(8)
        header = file.read(min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES))
    digest = hashlib.sha256(prefix + header).hexdigest()
    return FileIdentity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)
