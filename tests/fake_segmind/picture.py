"""The picture a job returns: drawn from its inputs, so that a person or a test can tell whose it is."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Size = tuple[int, int]
Colour = tuple[int, int, int]
INK: Colour = (250, 250, 250)
GREY: Colour = (96, 96, 104)


@dataclass(frozen=True)
class Sketch:
    """What determines a picture. ``references`` are encoded images in order, None for one out of reach."""

    prompt: str
    seed: int
    references: tuple[bytes | None, ...]
    aspect_ratio: str
    area: int
    index: int = 0


def size_of(aspect_ratio: str, area: int, first: Size | None = None) -> Size:
    """Width and height in multiples of 16 with about ``area`` pixels."""
    if aspect_ratio == "match_input_image":
        wide, high = first or (1, 1)
    else:
        wide, high = (int(side) for side in aspect_ratio.split(":"))
    scale = (area / (wide * high)) ** 0.5
    return max(16, round(wide * scale / 16) * 16), max(16, round(high * scale / 16) * 16)


def draw(sketch: Sketch) -> Image.Image:
    """The references side by side, or an abstract from the seed, with prompt and seed written below."""
    panels = [_panel(data) for data in sketch.references]
    size = size_of(sketch.aspect_ratio, sketch.area, panels[0].size if panels else None)
    dice = random.Random(_digest(sketch))
    canvas = Image.new("RGB", size, _colour(dice, 24, 96))
    band = size[1] * 3 // 4
    if panels:
        _paste_row(canvas, panels, band)
    else:
        _scatter(canvas, dice, band)
    _caption(canvas, sketch, band)
    return canvas


def encode(image: Image.Image, image_format: str, quality: int) -> bytes:
    """The file bytes. PNG ignores quality, as a lossless format must."""
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, image_format.upper(), quality=quality)
    return buffer.getvalue()


def readable(data: bytes) -> bool:
    """Whether bytes are an image the service could open."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


@lru_cache(maxsize=1)
def blank_png(side: int) -> bytes:
    """A black one-bit PNG, packed row by row: its pixels never exist here."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _digest(sketch: Sketch) -> bytes:
    text = repr((sketch.prompt, sketch.seed, sketch.aspect_ratio, sketch.index))
    pixels = [hashlib.sha256(data or b"").hexdigest() for data in sketch.references]
    return hashlib.sha256(repr((text, pixels)).encode()).digest()


def _colour(dice: random.Random, low: int, high: int) -> Colour:
    return dice.randint(low, high), dice.randint(low, high), dice.randint(low, high)


def _panel(data: bytes | None) -> Image.Image:
    if data is None:
        return Image.new("RGB", (64, 64), GREY)
    with Image.open(io.BytesIO(data)) as image:
        pixels: Image.Image = image.convert("RGB")
    return pixels


def _paste_row(canvas: Image.Image, panels: Sequence[Image.Image], band: int) -> None:
    slot = canvas.width // len(panels)
    for i, panel in enumerate(panels):
        scale = min(slot / panel.width, band / panel.height)
        size = max(1, round(panel.width * scale)), max(1, round(panel.height * scale))
        fitted = panel.resize(size, Image.Resampling.BILINEAR)
        canvas.paste(fitted, (i * slot + (slot - size[0]) // 2, (band - size[1]) // 2))


def _scatter(canvas: Image.Image, dice: random.Random, band: int) -> None:
    pen = ImageDraw.Draw(canvas)
    for _ in range(7):
        x, y = dice.randrange(canvas.width), dice.randrange(band)
        r = dice.randrange(max(2, band // 4)) + 2
        pen.ellipse((x - r, y - r, x + r, min(y + r, band)), fill=_colour(dice, 96, 240))


def _caption(canvas: Image.Image, sketch: Sketch, band: int) -> None:
    pen = ImageDraw.Draw(canvas)
    height = max(8, (canvas.height - band) // 6)
    lines = textwrap.wrap(sketch.prompt, max(8, int(canvas.width / (height * 0.55))))[:4]
    lines.append(f"seed {sketch.seed}" + (f" #{sketch.index}" if sketch.index else ""))
    font = ImageFont.load_default(height)
    pen.rectangle((0, band, canvas.width, canvas.height), fill=(16, 16, 20))
    for i, line in enumerate(lines):
        pen.text((height // 2, band + height // 4 + i * int(height * 1.15)), line, fill=INK, font=font)
