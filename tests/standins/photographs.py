"""Real photographs that scikit-image ships: an astronaut, a coffee cup, a cat, a rocket."""

from pathlib import Path

import numpy as np
from PIL import Image

FILES = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name: str, *, longest_side: int | None = None) -> Image.Image:
    import skimage.data

    image = Image.fromarray(np.ascontiguousarray(getattr(skimage.data, name)()))
    if longest_side is not None:
        image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return image


def write_photographs(directory: Path, names: dict[str, str], *, longest_side: int | None = None) -> None:
    """Writes photographs as {file name: photograph}."""
    directory.mkdir(parents=True, exist_ok=True)
    for file_name, name in names.items():
        photograph(name, longest_side=longest_side).save(directory / file_name)
