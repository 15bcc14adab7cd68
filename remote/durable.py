"""Files that survive a power cut: when these functions return, the bytes and the name are on the disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def make_folder(directory: Path) -> None:
    """Made where it is missing, readable by its owner only."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(directory.parent)


def replace(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename, fsync of the folder: the name never shows less than all bytes.

    Raises:
        OSError: the disk is full or read-only; what the name showed before it still shows.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    temporary = Path(name)
    try:
        _write(handle, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create(path: Path, data: bytes) -> None:
    """The same for a name that nobody else may have taken: of two processes one succeeds.

    Raises:
        FileExistsError: it is taken.
        OSError: the disk is full or read-only; the name is free again.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        _write(handle, data)
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_folder(directory: Path) -> None:
    """Makes a rename durable; Windows neither needs nor allows it."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(handle: int, data: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
