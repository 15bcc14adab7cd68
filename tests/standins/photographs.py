"""Real photographs that scikit-image ships: an astronaut, a coffee cup, a cat, a rocket. One may be painted over."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

FILES = ("astronaut", "coffee", "chelsea", "rocket")
PAINTED_OVER = " painted over"


def photograph(name: str, *, longest_side: int | None = None) -> Image.Image:
    import skimage.data

    image = Image.fromarray(np.ascontiguousarray(getattr(skimage.data, name.removesuffix(PAINTED_OVER))()))
    if longest_side is not None:
        image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return _painted(image) if name.endswith(PAINTED_OVER) else image


def write_photographs(directory: Path, names: dict[str, str], *, longest_side: int | None = None) -> None:
    """Writes photographs as {file name: photograph}."""
    for file_name, name in names.items():
        (directory / file_name).parent.mkdir(parents=True, exist_ok=True)
        photograph(name, longest_side=longest_side).save(directory / file_name)


def _painted(image: Image.Image) -> Image.Image:
    """As ComfyUI's mask editor saves a photograph: transparent where it was painted over."""
    width, height = image.size
    opaque = Image.new("L", image.size, 255)
    ImageDraw.Draw(opaque).ellipse((width * 0.5, height * 0.55, width * 0.9, height * 0.95), fill=0)
    image.putalpha(opaque)
    return image
