"""A folder of photographs: which files are, in what order, why the others are not, and where edits of them are saved.

Files are opened to be looked at, and never written to. Photographs of one size follow each other.
"""

from __future__ import annotations

import itertools
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .framing import Size, refuse_extremes

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # those of Pillow's that start no other program
ENDING = ".png"
NAMED_AT_MOST = 10
NAMELESS = "picture"
_FORBIDDEN = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
_ORIENTATION = 0x0112
_LYING = {5, 6, 7, 8}  # the camera was held upright


class UnusableFolder(ValueError):
    """Nothing can be read from the folder, or written to it; the message says why and what to do."""


@dataclass(frozen=True)
class Photograph:
    """One file. Attributes: size: in pixels, as it is to be seen."""

    path: Path
    size: Size


@dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Attributes:
        photographs: in the order of their names, but those of one size together.
        skipped: of every other visible file, why, by its name.
    """

    photographs: Sequence[Photograph]
    skipped: Mapping[str, str]


def inside(base: Path, folder: str) -> Path:
    """A folder below another.

    Raises:
        UnusableFolder: it lies elsewhere, also by way of a link.
    """
    path = (base / folder.strip()).resolve()
    if not path.is_relative_to(base.resolve()):
        raise UnusableFolder(
            f"The folder {folder!r} does not lie in {base}. Give the name of one that does, as in holiday/first day."
        )
    return path


def read_folder(folder: Path) -> Contents:
    """Looks at the header of every file that is not hidden; folders in it are not looked into.

    Raises:
        UnusableFolder: there is no such folder, it is empty, or no file of it is a photograph.
    """
    if not folder.is_dir():
        raise UnusableFolder(f"There is no folder {folder}. {_others(folder.parent)}")
    found, skipped = [], {}
    for path in _visible(folder):
        try:
            found.append(Photograph(path, _size(path)))
        except Exception as error:  # Pillow's readers raise of every kind
            skipped[path.name] = why(error)
    if not found:
        raise UnusableFolder(f"No photograph is in {folder}: {_told(skipped) or 'it is empty'}. Put some there.")
    return Contents(_by_size(found), skipped)


def state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Another one as soon as a file comes, goes or is changed."""
    files = ((path.name, path.stat()) for path in _visible(folder))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)


def require_whole(path: Path) -> None:
    """Decodes a photograph to its last byte. Raises whatever Pillow does where that is not there."""
    with Image.open(path, formats=FORMATS) as image:
        image.load()


def why(error: Exception) -> str:
    """As a clause."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that can be read"
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        return "too large to be read"
    return (str(error) or type(error).__name__).rstrip(".")


def report(skipped: Mapping[str, str]) -> list[str]:
    """A line for the files left out, none where there are none."""
    return [f"Skipped: {_told(skipped)}."] if skipped else []


class NewPictures:
    """Saves pictures in a folder, each under a name that was free; one is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, pixels: np.ndarray, name: str) -> Path:
        """Of (height, width, 3) in [0, 1], as PNG.

        Args:
            name: without an ending; what no file may be called becomes _. Where it is taken a number is put behind it.

        Raises:
            UnusableFolder: the disk is full, or the folder may not be written to.
        """
        name = _FORBIDDEN.sub("_", name).lstrip(".") or NAMELESS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._written(Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)), name)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnusableFolder(f"{name}{ENDING} could not be saved in {self.folder}: {reason}.") from error

    def _written(self, picture: Image.Image, name: str) -> Path:
        unfinished = self.folder / f".{uuid.uuid4().hex}.part"
        try:
            with unfinished.open("xb") as file:
                picture.save(file, "PNG", compress_level=4)
                file.flush()
                os.fsync(file.fileno())
            return next(path for path in _names(self.folder, name) if _moved(unfinished, path))
        finally:
            unfinished.unlink(missing_ok=True)


def _names(folder: Path, name: str) -> Iterator[Path]:
    yield folder / f"{name}{ENDING}"
    for number in itertools.count(2):
        yield folder / f"{name} ({number}){ENDING}"


def _moved(unfinished: Path, target: Path) -> bool:
    """False where the name is taken. A second name for the file cannot replace another's; not every disk has those."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        return False
    except OSError:
        if target.exists():
            return False
        unfinished.rename(target)
    return True


def _visible(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(files, key=lambda path: (path.name.casefold(), path.name))


def _size(path: Path) -> Size:
    with Image.open(path, formats=FORMATS) as image:
        lying = image.format != "PNG" and image.getexif().get(_ORIENTATION) in _LYING  # Pillow decodes a PNG for that
        size = Size(*(image.size[::-1] if lying else image.size))
    refuse_extremes(size)
    return size


def _by_size(found: Iterable[Photograph]) -> list[Photograph]:
    groups: dict[Size, list[Photograph]] = {}
    for one in found:
        groups.setdefault(one.size, []).append(one)
    return list(itertools.chain(*groups.values()))


def _told(skipped: Mapping[str, str]) -> str:
    first = [f"{name} ({reason})" for name, reason in itertools.islice(skipped.items(), NAMED_AT_MOST)]
    rest = len(skipped) - len(first)
    return ", ".join(first) + (f" and {rest} more" if rest else "")


def _others(folder: Path) -> str:
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    named = ", ".join(there[:NAMED_AT_MOST])
    return f"In {folder} are {named}." if there else f"Make it in {folder} and put photographs into it."
