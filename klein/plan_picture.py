"""A plan as bars: what fills the card in each phase, against what it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .plan import Plan, gb

WIDTH = 960
_MARGIN, _LABEL, _BAR, _GAP = 32, 192, 62, 24
_THINNEST = 3  # pixels of a part too small for the scale; an outline has room
_TITLE, _TEXT, _SMALL = 50, 38, 34
_PAPER, _INK, _FAINT = "#1f232b", "#f2f4f8", "#98a2b3"
_MODEL, _CACHE, _WORK, _WORDS, _VAE = "#5b9cf5", "#b48cf2", "#f4a259", "#52c0a8", "#e77fa3"
_GOOD, _SLOW, _BAD = "#3fb27f", "#e0a030", "#e05d5d"


@dataclass(frozen=True)
class _Part:
    """A piece of a bar; outside: it is not on the card and comes there when needed."""

    name: str
    nbytes: int
    colour: str
    outside: bool = False


def draw_plan(plan: Plan) -> Image.Image:
    """RGB, WIDTH wide, as high as it needs."""
    bars = _bars(plan)
    legend = _legend(bars)
    top = _MARGIN + _TITLE + 84
    bottom = top + len(bars) * (_BAR + _GAP)
    height = bottom + 16 + (len(legend) + 1) // 2 * 48 + _MARGIN
    picture = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_title(draw, plan)
    room = plan.card.ram if plan.card.is_processor else plan.card.free
    scale = (WIDTH - 2 * _MARGIN - _LABEL) / max(room * 1.04, *(sum(part.nbytes for part in bar) for _, bar in bars), 1)
    for place, (label, bar) in enumerate(bars):
        _draw_bar(draw, label, bar, top + place * (_BAR + _GAP), scale)
    _draw_room(draw, room, scale, top, bottom - _GAP, "RAM" if plan.card.is_processor else "VRAM")
    _draw_legend(draw, legend, bottom + 16)
    return picture


def _bars(plan: Plan) -> list[tuple[str, list[_Part]]]:
    files, kept = plan.files, plan.kept.resident
    sampling = [
        _Part("model", kept, _MODEL),
        _Part("reference cache", plan.cache_on_card, _CACHE),
        _Part("activations", plan.activations + plan.unpacked, _WORK),
        _Part("model, streamed", files.model.nbytes - kept, _MODEL, outside=True),
        _Part("cache, streamed", plan.cache - plan.cache_on_card, _CACHE, outside=True),
    ]
    stays = max(0, kept - plan.evicted)
    decoding = [_Part("model", stays, _MODEL), _Part("VAE at work", files.vae.nbytes + plan.decode, _VAE)]
    bars = [("Prompt", [_Part("text encoder", files.encoder.nbytes, _WORDS)]), ("Sampling", sampling)]
    bars.append(("Decoding", decoding))
    return [(label, [part for part in bar if part.nbytes]) for label, bar in bars]


def _legend(bars: Sequence[tuple[str, Sequence[_Part]]]) -> list[_Part]:
    """Each name once, where it is largest."""
    largest: dict[str, _Part] = {}
    for part in (part for _, bar in bars for part in bar):
        if part.name not in largest or largest[part.name].nbytes < part.nbytes:
            largest[part.name] = part
    return list(largest.values())


def _draw_title(draw: ImageDraw.ImageDraw, plan: Plan) -> None:
    words, colour = _word(plan)
    draw.rounded_rectangle((_MARGIN, _MARGIN, _MARGIN + 18, _MARGIN + _TITLE), 9, fill=colour)
    draw.text((_MARGIN + 36, _MARGIN - 4), words, font=_font(_TITLE), fill=_INK)


def _word(plan: Plan) -> tuple[str, str]:
    if not plan.files.model.modules:
        return "Size of the model unknown", _SLOW
    if not plan.fits:
        return "Does not fit", _BAD
    if plan.is_whole:
        return "Fits", _GOOD
    return f"Runs, {gb(plan.streamed)} streamed each step", _SLOW


def _draw_bar(draw: ImageDraw.ImageDraw, label: str, bar: Sequence[_Part], top: int, scale: float) -> None:
    draw.text((_MARGIN, top + _BAR / 2), label, font=_font(_TEXT), fill=_INK, anchor="lm")
    left = float(_MARGIN + _LABEL)
    for part in bar:
        right = left + part.nbytes * scale
        box = (left, top, max(left + _THINNEST, right - 2), top + _BAR)
        if part.outside:
            _draw_outlined(draw, box, part.colour)
        else:
            draw.rectangle(box, fill=part.colour)
        words, font = gb(part.nbytes), _font(_SMALL)
        if draw.textlength(words, font) + 16 < right - left:
            ink = _INK if part.outside else _PAPER
            draw.text(((left + right) / 2, top + _BAR / 2), words, font=font, fill=ink, anchor="mm")
        left = right


def _draw_outlined(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: str) -> None:
    """An outline: it is not on the card."""
    left, top, right, bottom = box
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=colour, width=4)


def _draw_room(draw: ImageDraw.ImageDraw, room: int, scale: float, top: int, bottom: int, name: str) -> None:
    """A line where the card ends."""
    x = _MARGIN + _LABEL + room * scale
    draw.line((x, top - 14, x, bottom + 8), fill=_INK, width=5)
    words, font = f"{gb(room)} of {name} usable", _font(_SMALL)
    half = draw.textlength(words, font) / 2
    centre = min(max(x, _MARGIN + _LABEL + half), WIDTH - _MARGIN - half)
    draw.text((centre, top - 20), words, font=font, fill=_INK, anchor="ms")


def _draw_legend(draw: ImageDraw.ImageDraw, legend: Sequence[_Part], top: int) -> None:
    column = (WIDTH - 2 * _MARGIN) // 2
    for place, part in enumerate(legend):
        left, y = _MARGIN + place % 2 * column, top + place // 2 * 48
        box = (left, y + 6, left + 28, y + 34)
        if part.outside:
            _draw_outlined(draw, box, part.colour)
        else:
            draw.rounded_rectangle(box, 5, fill=part.colour)
        draw.text((left + 42, y + 20), part.name, font=_font(_SMALL), fill=_FAINT, anchor="lm")
        draw.text((left + column - 20, y + 20), gb(part.nbytes), font=_font(_SMALL), fill=_INK, anchor="rm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
