"""A memory plan at a glance: one bar a phase, against the card's VRAM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .plan import GIB, VRAM, Phase, Plan

WIDTH = 720
_MARGIN, _LABEL, _BAR, _GAP, _HEAD, _LEGEND = 28, 112, 42, 18, 118, 80
_BACKGROUND, _INK, _FAINT, _TRACK = "#1d1f24", "#f0f1f3", "#9aa0aa", "#2b2e36"
_COLOURS = {
    "text encoder": "#c98bdb",
    "VAE": "#6fc3a8",
    "diffusion model": "#5b9bd5",
    "in transit": "#8796a5",
    "references' cache": "#e8b04b",
    "activations": "#e2725b",
}
_STREAMED = "streamed"


@dataclass(frozen=True)
class _Scale:
    """From bytes to pixels along the bars."""

    largest: int

    def x(self, nbytes: float) -> float:
        return _MARGIN + _LABEL + nbytes / self.largest * (WIDTH - 2 * _MARGIN - _LABEL)


def plan_picture(plan: Plan, subtitle: str) -> np.ndarray:
    """(height, 720, 3) float32 in [0, 1]; `subtitle` stands under its title, cut where it is too long."""
    height = _HEAD + len(plan.phases) * (_BAR + _GAP) + _LEGEND
    image = Image.new("RGB", (WIDTH, height), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    ends = (max(phase.held, plan.card.usable) + phase.streamed for phase in plan.phases)
    scale = _Scale(max(plan.card.total, *ends))
    _head(draw, plan, subtitle)
    for row, phase in enumerate(plan.phases):
        _bar(draw, phase, scale, _HEAD + row * (_BAR + _GAP), plan.card.usable)
    _limit(draw, scale, plan, height - _LEGEND)
    _legend(draw, plan, height - _LEGEND + 22)
    return np.asarray(image, dtype=np.float32) / 255


def _head(draw: ImageDraw.ImageDraw, plan: Plan, subtitle: str) -> None:
    draw.text((_MARGIN, 20), _title(plan), fill=_INK, font=_font(24))
    shown = _cut(draw, subtitle.replace(".safetensors", ""), _font(16))
    draw.text((_MARGIN, 54), shown, fill=_FAINT, font=_font(16))


def _title(plan: Plan) -> str:
    if not plan.fits:
        return "Does not fit"
    if plan.resident:
        return "Everything stays on the card" if plan.card.memory == VRAM else "Everything stays in RAM"
    return f"Streams {plan.sampling.streamed / GIB:.1f} GiB a step"


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """What of it fits between the margins."""
    if draw.textlength(text, font=font) <= WIDTH - 2 * _MARGIN:
        return text
    while draw.textlength(text + "...", font=font) > WIDTH - 2 * _MARGIN:
        text = text[:-1]
    return text + "..."


def _bar(draw: ImageDraw.ImageDraw, phase: Phase, scale: _Scale, top: int, usable: int) -> None:
    draw.text((_MARGIN, top + 4), phase.name, fill=_INK, font=_font(17))
    draw.text((_MARGIN, top + 24), f"{phase.held / GIB:.1f} GiB", fill=_FAINT, font=_font(14))
    draw.rectangle((scale.x(0), top, scale.x(usable), top + _BAR), fill=_TRACK)
    at = 0
    for name, nbytes in phase.parts:
        _segment(draw, scale, (at, at + nbytes), top, _COLOURS[name])
        at += nbytes
    if phase.streamed:
        start = max(at, usable)
        _hatched(draw, scale, (start, start + phase.streamed), top)


def _segment(draw: ImageDraw.ImageDraw, scale: _Scale, span: tuple[int, int], top: int, colour: str) -> None:
    left, right = scale.x(span[0]), scale.x(span[1])
    if right - left < 1:
        return
    draw.rectangle((left, top, right - 1, top + _BAR), fill=colour)
    text = f"{(span[1] - span[0]) / GIB:.1f}"
    if draw.textlength(text, font=_font(16)) + 8 < right - left:
        draw.text(((left + right) / 2, top + _BAR / 2), text, fill=_BACKGROUND, font=_font(16), anchor="mm")


def _hatched(draw: ImageDraw.ImageDraw, scale: _Scale, span: tuple[int, int], top: int) -> None:
    """What has no room on the card."""
    left, right = round(scale.x(span[0])), round(scale.x(span[1]))
    for x in range(left - _BAR, right, 9):
        start, stop = max(x, left), min(x + _BAR, right)
        if start < stop:
            draw.line((start, top + _BAR - (start - x), stop, top + _BAR - (stop - x)), fill=_FAINT, width=2)
    draw.rectangle((left, top, right, top + _BAR), outline=_FAINT)


def _limit(draw: ImageDraw.ImageDraw, scale: _Scale, plan: Plan, bottom: int) -> None:
    """Where the usable part of the card ends."""
    x = scale.x(plan.card.usable)
    draw.line((x, _HEAD - 6, x, bottom - _GAP + 6), fill=_INK, width=2)
    label = f"{plan.card.usable / GIB:.1f} of {plan.card.total / GIB:.0f} GiB"
    draw.text(
        (min(x, WIDTH - _MARGIN), _HEAD - 12), label, fill=_INK, font=_font(14), anchor="rs" if x > WIDTH / 2 else "ls"
    )


def _legend(draw: ImageDraw.ImageDraw, plan: Plan, top: int) -> None:
    shown = {name: _COLOURS[name] for phase in plan.phases for name, nbytes in phase.parts if nbytes}
    if any(phase.streamed for phase in plan.phases):
        shown[_STREAMED] = _FAINT
    x = float(_MARGIN)
    for name, colour in shown.items():
        width = 20 + draw.textlength(name, font=_font(14))
        if x + width > WIDTH - _MARGIN:
            x, top = float(_MARGIN), top + 24
        box = (x, top, x + 14, top + 14)
        draw.rectangle(box, fill=None if name == _STREAMED else colour, outline=colour)
        draw.text((x + 20, top + 7), name, fill=_INK, font=_font(14), anchor="lm")
        x += width + 18


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
