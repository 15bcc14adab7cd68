"""Klein 9B Edit Report: what an edit did to a photograph beside what was asked."""

from __future__ import annotations

import logging

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from ..klein.edit_report import Choices, EditReport, picture_of, refuse_sizes, report_on, told
from ..klein.framing import UnusableImage
from .host.pictures import ConnectedImage, frames_of
from .host.text import show_text

log = logging.getLogger(__name__)

NOT_FOUND = "%s: Too little of the original shows in the edit, so its shift is not known and not undone."


class Klein9BEditReport(io.ComfyNode):
    """Measures what an edit moved, recoloured and changed, and undoes of it what is chosen."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BEditReport",
            display_name="Klein 9B Edit Report",
            category="Klein 9B/More",
            description=(
                "Compares an edit with its original: by how much it is shifted, zoomed and turned, how far its colours "
                "drifted where nothing was to change, and what changed. Can put it back in place, lock its colours to "
                "the original's, and lay only what changed over the original."
            ),
            search_aliases=[
                "compare images",
                "change mask",
                "pixel shift fix",
                "color drift",
                "color match",
                "align images",
                "delta e",
            ],
            inputs=[
                io.Image.Input("original", tooltip="The photograph that was edited."),
                io.Image.Input(
                    "edit",
                    tooltip="The edit, of the original's size: from Klein 9B Restore. Several edits of one original "
                    "may come as a batch.",
                ),
                io.Boolean.Input(
                    "undo_movement",
                    default=False,
                    tooltip="On: the edit is shifted, zoomed and turned back over the original. Where it then shows "
                    "nothing, the original's pixels stand.",
                ),
                io.Boolean.Input(
                    "lock_colors",
                    default=False,
                    tooltip="On: the edit's colours are turned back by what happened to the unchanged part, in the "
                    "whole picture.",
                ),
                io.Boolean.Input(
                    "only_changes",
                    default=False,
                    tooltip="On: only what changed is laid over the original; every other pixel is the original's. "
                    "Mostly right with the two above.",
                ),
                io.Float.Input(
                    "threshold",
                    default=5.0,
                    min=0.5,
                    max=100.0,
                    step=0.1,
                    tooltip="From which difference on a pixel counts as changed, as dE2000 beside the drift. About 1 "
                    "is just seen; higher where noise is taken for change.",
                ),
                io.Int.Input(
                    "feather",
                    default=16,
                    min=0,
                    max=512,
                    tooltip="With only_changes: over how many pixels around what changed the edit fades into the "
                    "original.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The edit, with what was chosen undone."),
                io.Mask.Output(display_name="mask", tooltip="White is what changed, in the original's pixels."),
                io.String.Output(display_name="report", tooltip="The measures, as they stand under the node."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        original: torch.Tensor,
        edit: torch.Tensor,
        undo_movement: bool,
        lock_colors: bool,
        only_changes: bool,
        threshold: float,
        feather: int,
    ) -> io.NodeOutput:
        pairs = _pairs(original, edit)
        choices = Choices(undo_movement, lock_colors, only_changes, feather)
        pictures, masks, texts = [], [], []
        for label, one, other in pairs:
            report = report_on(one, other, threshold)
            pictures.append(picture_of(one, other, report, choices).movedim(0, -1))
            masks.append(report.changed.float())
            texts.append(_headed(label, report, several=len(pairs) > 1))
            if undo_movement and not report.alignment.found:
                log.warning("Klein 9B Edit Report, " + NOT_FOUND, label)
        text = "\n\n".join(texts)
        show_text(cls, text)
        return io.NodeOutput(torch.stack(pictures), torch.stack(masks), text)


def _pairs(original: torch.Tensor, edit: torch.Tensor) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each edit with its original, (3, height, width), and what it is called.

    Raises:
        UnusableImage: there are several originals, and not as many as edits; or the sizes differ.
    """
    originals, edits = frames_of("original", original), frames_of("edit", edit)
    if len(originals) not in (1, len(edits)):
        raise UnusableImage(
            f"There are {len(originals)} originals and {len(edits)} edits: expected one original, or one for each edit."
        )
    pairs = [(one.label, _tensor(originals[i % len(originals)]), _tensor(one)) for i, one in enumerate(edits)]
    refuse_sizes(*pairs[0][1:])
    return pairs


def _tensor(image: ConnectedImage) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image.pixels, 2, 0)))


def _headed(label: str, report: EditReport, *, several: bool) -> str:
    return f"{label}\n{told(report)}" if several else told(report)
