"""What an edit did to a photograph beside what was asked: moved it, turned its colours, changed it where.

Pictures are tensors (3, height, width), float32 sRGB in [0, 1]; masks are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .alignment import Alignment, align
from .colour import delta_e_2000, lab_of
from .colour_fit import ColourShift, fit_colours, sampled
from .framing import Size, UnusableImage
from .mask import feathered
from .similarity import Similarity, inside, warped

SOFTNESS = 1.5  # pixels over which colours are compared, so that grain and JPEG count little
SPECK = 5  # pixels: what is thinner did not change
GAP = 9  # pixels: what is thinner between two changes changed with them
MARGIN = 9  # pixels around what changed that tell nothing about the colours
BAND = 2**20  # pixels whose colours are compared at once
FEWEST = 0.005  # of the picture: of less, no colours are told


@dataclass(frozen=True)
class Drift:
    """How the colours of the unchanged part moved, on average.

    Attributes:
        delta_e: CIEDE2000.
        lab: L*, a* and b*, the edit's less the original's.
    """

    delta_e: float
    lab: tuple[float, float, float]


@dataclass(frozen=True)
class EditReport:
    """What an edit did.

    Attributes:
        alignment: where the original's points lie in the edit.
        drift: None where almost nothing is unchanged.
        changed: what shows something else, (height, width) bool, in the original's pixels.
        covered: what of the original the edit shows, likewise.
        lock: takes the edit's colours to the original's.
    """

    alignment: Alignment
    drift: Drift | None
    changed: torch.Tensor
    covered: torch.Tensor
    lock: ColourShift

    @property
    def share(self) -> float:
        """How much of what both show changed, in [0, 1]."""
        return float(self.changed.sum() / self.covered.sum().clamp(min=1))


@dataclass(frozen=True)
class Choices:
    """What is made of the edit.

    Attributes:
        undo_movement: it is laid over the original as it was found; where it shows nothing the original stands.
        lock_colors: its colours become those of the original's unchanged part.
        only_changes: it is laid over the original where it changed; every other pixel is the original's.
        feather: over how many pixels around what changed it fades into the original.
    """

    undo_movement: bool
    lock_colors: bool
    only_changes: bool
    feather: int


def report_on(original: torch.Tensor, edit: torch.Tensor, threshold: float) -> EditReport:
    """Measures an edit. The same pictures give the same report.

    Args:
        threshold: the CIEDE2000 difference, beside the drift of all colours, from which on a pixel changed.

    Raises:
        UnusableImage: the pictures differ in size.
    """
    refuse_sizes(original, edit)
    found = align(original, edit)
    height, width = original.shape[1:]
    covered = inside(found.similarity, width, height)
    here, there = _soft(original), _soft(_laid(edit, found.similarity))
    seen = lab_of(here)
    same = covered if found.same is None else covered & found.same
    for _ in range(2):
        lock = fit_colours(there, here, same)
        changed = _cleaned(_difference(seen, lock.applied(there)) > threshold) & covered
        same = covered & ~_grown(changed, MARGIN)
    return EditReport(found, _drift(original, here, there, same), changed, covered, fit_colours(there, here, same))


def refuse_sizes(original: torch.Tensor, edit: torch.Tensor) -> None:
    """Raises UnusableImage where two pictures differ in size."""
    one, other = (Size(picture.shape[2], picture.shape[1]) for picture in (original, edit))
    if one != other:
        raise UnusableImage(
            f"The edit is {other} pixels and the original {one}: expected two pictures of one size. Put Klein 9B "
            "Restore between VAE Decode and this node, which returns an edit to the size and framing of image 1. After "
            "enlarge_input_image, resize the original to the edit's size."
        )


def picture_of(original: torch.Tensor, edit: torch.Tensor, report: EditReport, choices: Choices) -> torch.Tensor:
    """The edit with what was chosen undone, (3, height, width)."""
    picture = edit
    if choices.undo_movement:
        picture = _laid(edit, report.alignment.similarity)
    if choices.lock_colors:
        picture = report.lock.applied(picture)
    if choices.undo_movement:
        picture = torch.where(report.covered, picture, original)
    if choices.only_changes:
        soft = torch.from_numpy(feathered(report.changed.float().numpy(), choices.feather))
        picture = torch.where(soft == 0, original, torch.lerp(original, picture, soft))
    return picture


def told(report: EditReport) -> str:
    """The report in lines."""
    return "\n".join(
        [*_movement(report.alignment), _colours(report.drift), f"changed: {report.share:.1%} of the picture"]
    )


def _movement(alignment: Alignment) -> list[str]:
    if not alignment.found:
        return ["shift, zoom, rotation: not measured, for too little of the original shows in the edit"]
    by = alignment.similarity
    across, down = _size(by.shift.real, " px", "right", "left"), _size(by.shift.imag, " px", "down", "up")
    return [
        f"shift: {across}, {down}",
        f"zoom: {_signed((by.zoom - 1) * 100)} %",
        f"rotation: {_size(by.degrees, ' degrees', 'clockwise', 'counterclockwise')}",
    ]


def _colours(drift: Drift | None) -> str:
    if drift is None:
        return "colour drift: not measured, for almost nothing is unchanged"
    axes = ", ".join(f"{axis}* {_signed(value)}" for axis, value in zip("Lab", drift.lab))
    return f"colour drift of the unchanged part: dE2000 {drift.delta_e:.2f} ({axes})"


def _size(value: float, unit: str, above: str, below: str) -> str:
    rounded = f"{abs(value):.2f}{unit}"
    return rounded if float(f"{value:.2f}") == 0 else f"{rounded} {above if value > 0 else below}"


def _signed(value: float) -> str:
    return f"{value:+.2f}" if round(value, 2) else "0.00"


def _laid(edit: torch.Tensor, by: Similarity) -> torch.Tensor:
    """Over the original, interpolated in linear light."""
    from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb

    if by == Similarity():
        return edit
    laid: torch.Tensor = linear_rgb_to_rgb(warped(rgb_to_linear_rgb(edit), by).clamp(0, 1))
    return laid


def _soft(picture: torch.Tensor) -> torch.Tensor:
    from kornia.filters import gaussian_blur2d

    soft: torch.Tensor = gaussian_blur2d(picture[None], (9, 9), (SOFTNESS, SOFTNESS), border_type="replicate")[0]
    return soft


def _drift(original: torch.Tensor, here: torch.Tensor, there: torch.Tensor, same: torch.Tensor) -> Drift | None:
    """By what became of the colours on the whole: grain and JPEG move no colour on average."""
    if same.float().mean() < FEWEST or not sampled(here, same).numel():
        return None
    before = sampled(original, same)
    after = fit_colours(here, there, same).applied(before)
    one, other = (lab_of(colours[:, None])[:, 0] for colours in (before, after))
    lightness, green_red, blue_yellow = (other - one).mean(1).tolist()
    return Drift(float(delta_e_2000(one, other).mean()), (lightness, green_red, blue_yellow))


def _difference(lab: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """CIEDE2000 of a picture from one in Lab, band by band."""
    rows = max(1, BAND // lab.shape[2])
    bands = zip(lab.split(rows, 1), picture.split(rows, 1))
    return torch.cat([delta_e_2000(one, lab_of(other)) for one, other in bands])


def _cleaned(mask: torch.Tensor) -> torch.Tensor:
    """Without specks and without gaps."""
    opened = _grown(_shrunk(mask, SPECK // 2), SPECK // 2)
    return _shrunk(_grown(opened, GAP // 2), GAP // 2)


def _grown(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """By so many pixels along rows and columns."""
    for axis in (0, 1):
        before, mask = mask, mask.clone()
        length = mask.shape[axis]
        for step in range(1, min(radius, length - 1) + 1):
            mask.narrow(axis, step, length - step).logical_or_(before.narrow(axis, 0, length - step))
            mask.narrow(axis, 0, length - step).logical_or_(before.narrow(axis, step, length - step))
    return mask


def _shrunk(mask: torch.Tensor, radius: int) -> torch.Tensor:
    return ~_grown(~mask, radius)
