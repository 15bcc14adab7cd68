"""The pictures on the template shelf: a workflow's own photographs, what it does with them, and for which card.

They show what goes in, since no picture of the real weights has been made yet.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from standins import photograph

SIDE, BAND, MARGIN, GAP = 830, 236, 36, 6
GROUND, PAPER, INK, QUIET = "#15171c", "#262a33", "#ffffff", "#c3c9d4"
LOCAL, SEGMIND = "#2f7d55", "#6a4bd8"  # white on these is 5.0 and 6.1 to 1
OF_IMAGES = ("astronaut", "coffee", "chelsea", "rocket")
OTHERS = {
    "Klein 9B cast two people": ("astronaut", "camera"),
    "Klein 9B edit a folder": ("astronaut", "coffee", "chelsea", "rocket"),
    "Klein 9B inpaint": ("astronaut painted over",),
}
WORDS = {
    "Klein 9B make int8 files": "The model and its text encoder once more, in 8-bit integers: half the gigabytes.",
    "Segmind jobs": "What was paid for, and one picture back by its request_id.",
}


def write_thumbnails(workflows: Path) -> None:
    for path in sorted(workflows.glob("*.json")):
        thumbnail(path).save(path.with_suffix(".jpg"), quality=88)


def thumbnail(workflow: Path) -> Image.Image:
    """Square, as the shelf crops it."""
    graph = json.loads((workflow.parent / "api" / workflow.name).read_text())
    picture = Image.new("RGB", (SIDE, SIDE), GROUND)
    photographs = OTHERS.get(workflow.stem) or OF_IMAGES[: len(_nodes(graph, "LoadImage"))]
    height = SIDE - BAND
    upper = _beside_each_other(photographs, height) if photographs else _written(_words(workflow.stem, graph), height)
    picture.paste(upper, (0, 0))
    _label(picture, workflow.stem, graph)
    return picture


def _nodes(graph: dict, kind: str) -> list[dict]:
    return [one["inputs"] for one in graph.values() if one["class_type"] == kind]


def _words(name: str, graph: dict) -> str:
    prompts = _nodes(graph, "Klein9BTextEncode") + _nodes(graph, "SegmindRemote")
    said = next((inputs["prompt"] for inputs in prompts if isinstance(inputs.get("prompt"), str)), "")
    return WORDS.get(name) or f"\u201c{said.split('.')[0]}\u201d"


def _beside_each_other(names: tuple[str, ...], height: int) -> Image.Image:
    columns = 1 if len(names) == 1 else 2
    rows = -(-len(names) // columns)
    size = ((SIDE - GAP * (columns - 1)) // columns, (height - GAP * (rows - 1)) // rows)
    sheet = Image.new("RGB", (SIDE, height), GROUND)
    for i, name in enumerate(names):
        corner = (i % columns * (size[0] + GAP), i // columns * (size[1] + GAP))
        sheet.paste(ImageOps.fit(_seen(name), size, centering=(0.5, 0.3)), corner)
    return sheet


def _seen(name: str) -> Image.Image:
    """What was painted over in white, as the mask editor shows it."""
    one = photograph(name)
    if one.mode != "RGBA":
        return one.convert("RGB")
    return Image.composite(one.convert("RGB"), Image.new("RGB", one.size, INK), one.getchannel("A"))


def _written(words: str, height: int) -> Image.Image:
    sheet = Image.new("RGB", (SIDE, height), PAPER)
    text = "\n".join(textwrap.wrap(words, 24))
    ImageDraw.Draw(sheet).text((MARGIN, height / 2), text, INK, ImageFont.load_default(62), anchor="lm", spacing=18)
    return sheet


def _label(picture: Image.Image, name: str, graph: dict) -> None:
    """What it does, and below it where: on which card, or on Segmind's."""
    draw, middle = ImageDraw.Draw(picture), SIDE - BAND + 163
    title, card = re.fullmatch(r"(?:Klein 9B |Segmind remote )?(.*?)(?: (\d+ GB))?", name).groups()
    draw.text((MARGIN, middle - 89), title[0].upper() + title[1:], INK, _fitting(title), anchor="lm")
    where, colour = _where(name, card, graph)
    font = ImageFont.load_default(38)
    right = MARGIN + font.getlength(where) + 48
    draw.rounded_rectangle((MARGIN, middle - 31, right, middle + 33), 32, colour)
    draw.text((MARGIN + 24, middle), where, INK, font, anchor="lm")
    draw.text((SIDE - MARGIN, middle), "FLUX.2 [klein] 9B", QUIET, ImageFont.load_default(30), anchor="rm")


def _fitting(title: str) -> ImageFont.FreeTypeFont:
    fonts = map(ImageFont.load_default, range(66, 30, -2))
    return next(font for font in fonts if font.getlength(title) < SIDE - 2 * MARGIN - 20)


def _where(name: str, card: str | None, graph: dict) -> tuple[str, str]:
    if not name.startswith("Segmind") and not _nodes(graph, "SegmindRemote"):
        return (f"{card} card" if card else "your own card"), LOCAL
    return ("your card or Segmind" if _nodes(graph, "Klein9BLoader") else "on Segmind's servers"), SEGMIND
