"""Klein 9B Save Folder: pictures under the names of the photographs they were made of."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy_api.v0_0_2 import io

from ..klein.photographs import ENDING, NewPictures, UnusableFolder, inside
from .host.newer_host import needs_host
from .host.pictures import frames_of
from .host.text import show_text


class Klein9BSaveFolder(io.ComfyNode):
    """Saves pictures as PNG under given names; nothing that is there is ever replaced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BSaveFolder",
            display_name="Klein 9B Save Folder",
            category="Klein 9B/More",
            description=(
                "Saves each picture as PNG under the name of its photograph, in a folder in ComfyUI's output folder. A "
                "file that is there is never replaced: a number goes behind the new name."
            ),
            search_aliases=["save images", "save folder", "save with name", "keep file name", "batch save"],
            inputs=[
                io.Image.Input("image", tooltip="The finished pictures."),
                io.String.Input("name", force_input=True, tooltip="Their names without ending, from Klein 9B Folder."),
                io.String.Input(
                    "folder",
                    default="edited",
                    tooltip="Name of a folder in ComfyUI's output folder. It is made where it is missing.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    @needs_host()
    def execute(cls, image: list[torch.Tensor], name: list[str], folder: list[str]) -> io.NodeOutput:
        import comfy.utils

        if len(image) != len(name):
            raise UnusableFolder(
                f"Expected a name for each picture, got {len(image)} and {len(name)}. Connect name to Klein 9B Folder."
            )
        base = Path(folder_paths.get_output_directory())
        new, bar, saved, renamed = NewPictures(inside(base, folder[0])), comfy.utils.ProgressBar(len(image)), [], 0
        for picture, called in zip(image, name):
            for frame in frames_of("image", picture):
                saved.append(new.save(frame.pixels, called))
                renamed += saved[-1].name != f"{called}{ENDING}"
            bar.update(1)
        show_text(cls, _told(len(saved), renamed, new.folder))
        return io.NodeOutput(ui={"images": [_shown(path, base) for path in saved]})


def _told(saved: int, renamed: int, folder: Path) -> str:
    pictures = f"{saved} picture{'s' * (saved != 1)} saved in {folder}"
    return f"{pictures}\n{renamed} under another name, as theirs was taken" if renamed else pictures


def _shown(path: Path, base: Path) -> dict[str, str]:
    """For the page, which shows what was saved."""
    subfolder = path.parent.relative_to(base.resolve()).as_posix()
    return {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
