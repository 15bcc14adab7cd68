"""Klein 9B Folder: the photographs of a folder as a list, each to be edited by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..klein.framing import CAP_SINGLE, Size, refuse_extremes
from ..klein.photographs import (
    Contents,
    Photograph,
    UnusableFolder,
    inside,
    read_folder,
    report,
    require_whole,
    state_of,
    why,
)
from .host.list_progress import with_progress
from .host.newer_host import needs_host
from .host.text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)

GIB = 2**30
BYTES_PER_PIXEL = 3 * 4  # ComfyUI keeps the photograph, what the VAE gets of it, and the picture, in float32
MOST = 10000


class Klein9BFolder(io.ComfyNode):
    """Loads photographs one by one out of a folder; what cannot be read is named and left out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BFolder",
            display_name="Klein 9B Folder",
            category="Klein 9B/More",
            description=(
                "Loads the photographs of a folder in ComfyUI's input folder, of whatever sizes. What is connected "
                "behind it runs once for each, with the same prompt, seed and settings. A file that cannot be read is "
                "named and left out."
            ),
            search_aliases=["load images", "load folder", "batch edit", "image list", "directory", "many images"],
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Passes through. While it samples, this node says which photograph is being edited.",
                ),
                io.String.Input(
                    "folder",
                    default="photographs",
                    tooltip="Name of a folder in ComfyUI's input folder, such as holiday or holiday/first day.",
                ),
                io.Int.Input(
                    "first",
                    default=1,
                    min=1,
                    max=10**6,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Number of the photograph to start at.",
                ),
                io.Int.Input(
                    "most",
                    default=20,
                    min=1,
                    max=MOST,
                    tooltip="How many photographs one run takes. ComfyUI keeps all of them and their pictures in RAM "
                    "until the run ends, and saves when the last one is edited. With 1, and first on increment, each "
                    "is saved before the next: set the number of runs beside Run.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", is_output_list=True, tooltip="The photographs, those of one size together."
                ),
                io.String.Output(
                    display_name="name",
                    is_output_list=True,
                    tooltip="Their files' names without ending, for Klein 9B Save Folder.",
                ),
                io.Model.Output(display_name="model", tooltip="The model as it came."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> Any:
        """A file that came, went or changed is seen in the next run."""
        try:
            return state_of(_path(folder))
        except (OSError, UnusableFolder) as error:
            return str(error)

    @classmethod
    @needs_host()
    def execute(cls, folder: str, first: int, most: int, model: ModelPatcher | None = None) -> io.NodeOutput:
        contents = read_folder(_path(folder))
        chosen = _chosen(contents.photographs, first, most)
        _refuse_too_many(chosen)
        skipped = dict(contents.skipped)
        images = dict(_loaded(chosen, skipped))
        if not images:
            raise UnusableFolder(
                f"No photograph from {first} to {first + len(chosen) - 1} could be read. {report(skipped)[0]}"
            )
        told = _told(contents, first, len(chosen), images) + report(skipped)
        show_text(cls, "\n".join(told))
        for line in report(skipped):
            log.warning("Klein 9B Folder: %s", line)
        names = [path.stem for path in images]
        return io.NodeOutput(list(images.values()), names, model and with_progress(model, names, cls, told))


def _path(folder: str) -> Path:
    return inside(Path(folder_paths.get_input_directory()), folder)


def _chosen(photographs: Sequence[Photograph], first: int, most: int) -> Sequence[Photograph]:
    if first > len(photographs):
        raise UnusableFolder(
            f"There are {len(photographs)} photographs, so none from number {first} on. Set first to 1."
        )
    return photographs[first - 1 : first - 1 + most]


def _refuse_too_many(chosen: Sequence[Photograph]) -> None:
    import psutil

    needed = BYTES_PER_PIXEL * sum(2 * one.size.area + min(one.size.area, CAP_SINGLE) for one in chosen)
    free = psutil.virtual_memory().available
    if needed > free:
        raise UnusableFolder(
            f"These {len(chosen)} photographs and their pictures take {needed / GIB:.1f} GiB of RAM, of which "
            f"{free / GIB:.1f} are free. Set most to {max(1, int(len(chosen) * 0.8 * free / needed))}, and edit the "
            "rest in later runs."
        )


def _loaded(chosen: Sequence[Photograph], skipped: dict[str, str]) -> Iterator[tuple[Path, torch.Tensor]]:
    """Each photograph (1, height, width, 3) as Load Image has it; those that fail go to `skipped`."""
    import comfy.utils
    import nodes

    load = nodes.LoadImage().load_image
    base, bar = Path(folder_paths.get_input_directory()).resolve(), comfy.utils.ProgressBar(len(chosen))
    for one in chosen:
        try:
            require_whole(one.path)
            image = load(one.path.relative_to(base).as_posix())[0][:1]
            refuse_extremes(Size(image.shape[2], image.shape[1]))
            yield one.path, image
        except Exception as error:  # one bad file must not end the others
            skipped[one.path.name] = why(error)
        bar.update(1)


def _told(contents: Contents, first: int, tried: int, images: Mapping[Path, torch.Tensor]) -> list[str]:
    every, sizes = len(contents.photographs), len({tuple(image.shape) for image in images.values()})
    of = f" of {every}" if tried < every else ""
    lines = [f"{len(images)}{of} photographs in {sizes} size{'s' * (sizes != 1)}"]
    following = first + tried
    return lines + ([f"For the rest set first to {following}."] if following <= every else [])
