"""Draws docs/icon.png and docs/banner.jpg from the tests' photographs; no picture of the model is there to be shown.

Usage: draw_banner.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from standins import photograph

DOCS = Path(__file__).resolve().parents[2] / "docs"
ICON, BANNER = (400, 400), (1680, 720)  # the registry: a square of at most 400, and 21:9
NIGHT, PAPER, QUIET, ORANGE = "#14181f", "#ffffff", "#b9c2d0", "#f0803c"
PROMPT = "Put the cup from image 2 into\nthe hands of the woman in image 1."
LINES = ("Edits that lie exactly over your photograph.", "On your own card from 8 GB, or on Segmind.")
Box = tuple[int, int, int, int]


def icon() -> Image.Image:
    picture = Image.new("RGB", ICON, NIGHT)
    _photograph(picture, "astronaut", (36, 36, 256, 256))
    _photograph(picture, "coffee", (164, 164, 364, 364))
    draw = ImageDraw.Draw(picture)
    _text(draw, (44, 292), "9B", 92, ORANGE)
    return picture


def banner() -> Image.Image:
    picture = Image.new("RGB", BANNER, NIGHT)
    draw = ImageDraw.Draw(picture)
    _text(draw, (90, 96), "Klein 9B", 136, PAPER)
    _text(draw, (96, 262), "FLUX.2 [klein] 9B for ComfyUI", 46, ORANGE)
    for i, line in enumerate(LINES):
        _text(draw, (96, 350 + 52 * i), line, 36, QUIET)
    draw.rounded_rectangle((90, 500, 760, 634), 18, fill="#252c38")
    _text(draw, (122, 524), PROMPT, 36, PAPER)
    _card(picture, "astronaut", "image 1", (890, 90, 1250, 630))
    _card(picture, "coffee", "image 2", (1280, 90, 1600, 630))
    return picture


def _card(picture: Image.Image, name: str, label: str, box: Box) -> None:
    _photograph(picture, name, box)
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((box[0] + 18, box[3] - 76, box[0] + 190, box[3] - 18), 14, fill=NIGHT)
    _text(draw, (box[0] + 38, box[3] - 67), label, 36, PAPER)


def _photograph(picture: Image.Image, name: str, box: Box) -> None:
    """Cut to the box, with round corners and a rim of the ground's colour."""
    size = (box[2] - box[0], box[3] - box[1])
    rim = tuple(edge + grow for edge, grow in zip(box, (-8, -8, 8, 8)))
    ImageDraw.Draw(picture).rounded_rectangle(rim, 30, fill=NIGHT)
    corners = Image.new("L", size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), 24, fill=255)
    fitted = ImageOps.fit(photograph(name), size, Image.Resampling.LANCZOS, centering=(0.42, 0.4))
    picture.paste(fitted, box[:2], corners)


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: str) -> None:
    draw.text(at, text, font=ImageFont.load_default(size), fill=colour, spacing=size // 4)


def main() -> None:
    icon().save(DOCS / "icon.png", optimize=True)
    banner().save(DOCS / "banner.jpg", quality=88)


if __name__ == "__main__":
    main()
