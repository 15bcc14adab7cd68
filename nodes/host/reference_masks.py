"""A mask painted on a reference, as the tokens of the reference that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...klein.framing import GRID, Placement, Size, fit_mask
from ...klein.influence import Mask, UnusableRegion
from ...klein.inpaint import Cut
from .masks import one_mask

_PLACEMENTS = "klein9b_placements"
_REFERENCES = "reference_latents"
COUNTS_FROM = 0.5  # of a token's pixels


def with_placements(conditioning: list, placements: Sequence[Placement | Cut]) -> list:
    """The same, knowing how the references joined last were fitted."""
    if not placements:
        return conditioning
    return [[embeds, {**beside, _PLACEMENTS: _numbered(beside, placements)}] for embeds, beside in conditioning]


def _numbered(beside: dict[str, Any], placements: Sequence[Placement | Cut]) -> dict[int, Placement | Cut]:
    first = len(beside.get(_REFERENCES) or ()) - len(placements) + 1
    return {**beside.get(_PLACEMENTS, {}), **dict(enumerate(placements, first))}


def tokens_that_count(conditioning: list, number: int, mask: Tensor | None) -> Tensor | None:
    """(height, width) on the latent grid of reference `number`, from 1; None where all tokens count.

    Raises:
        UnusableRegion: there is no such reference, or the mask is empty or of another shape than the image.
    """
    latent, placement = _reference(conditioning, number)
    if mask is None:
        return None
    pixels = one_mask("image_mask", mask)
    if not pixels.any():
        raise UnusableRegion(
            "The image_mask is empty, so no pixel of the image counts. Paint some, or set strength to 0."
        )
    height, width = latent.shape[-2:]
    kept = _on_grid(pixels, placement, height, width) >= COUNTS_FROM
    if not kept.any():
        raise UnusableRegion(
            f"The white of the image_mask fills half of no cell of {GRID}x{GRID} pixels, so nothing of the image would "
            "be seen. Paint more, or set strength to 0."
        )
    return None if bool(kept.all()) else kept


def over_the_picture(conditioning: list, pixels: Tensor) -> Tensor:
    """A mask over a photograph that is painted in, cut as that was; any other mask as it is."""
    placements = conditioning[0][1].get(_PLACEMENTS, {}).values()
    cut = next((one for one in placements if isinstance(one, Cut)), None)
    rows, columns = pixels.shape
    if cut is None or Size(columns, rows) != cut.original:
        return pixels
    return torch.from_numpy(cut.on_cells(pixels.numpy()))


def _reference(conditioning: list, number: int) -> tuple[Tensor, Placement | Cut | None]:
    _, beside = conditioning[0]
    latents = beside.get(_REFERENCES) or ()
    if number > len(latents):
        there = {0: "no image is", 1: "one image is"}.get(len(latents), f"{len(latents)} images are")
        raise UnusableRegion(
            f"Image {number} is to be changed, but {there} joined to this prompt. Connect Klein 9B References before "
            "this node, with that image, or choose another number."
        )
    return latents[number - 1], beside.get(_PLACEMENTS, {}).get(number)


def _on_grid(pixels: Tensor, placement: Placement | Cut | None, height: int, width: int) -> Tensor:
    if placement is None:
        return Mask(pixels, "image_mask").on_grid(height, width)
    rows, columns = pixels.shape
    if isinstance(placement, Placement) and Size(columns, rows) == placement.grid:
        return pixels.view(height, GRID, width, GRID).mean(dim=(1, 3))
    if Size(columns, rows) != placement.original:
        raise UnusableRegion(
            f"The image_mask is {columns}x{rows} pixels, but the image is {placement.original}. Paint it on that "
            "image, or on fitted_image of Klein 9B References."
        )
    if isinstance(placement, Cut):
        return torch.from_numpy(placement.on_cells(pixels.numpy()))
    fitted = torch.from_numpy(fit_mask(pixels.numpy(), placement))
    return fitted.view(height, GRID, width, GRID).mean(dim=(1, 3))
