"""Files that Klein 9B Loader is asked for and cannot have, and GGUF files that lie where they should."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...klein import file_names
from ...klein.file_set import WrongFile, absent

FOLDERS = {"diffusion_model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}
_GGUF_LOADERS = {
    "diffusion_model": ("Unet Loader (GGUF)", file_names.DIFFUSION_MODEL),
    "text_encoder": ("CLIPLoader (GGUF)", file_names.TEXT_ENCODER),
}


def absent_because(**files: str | None) -> str:
    """Which of the files, by their inputs, are not in their folders and what to do; empty where all are."""
    lists = {name: folder_paths.get_filename_list(folder) for name, folder in FOLDERS.items()}
    return " ".join(
        str(with_gguf(absent(name, file, lists[name])))
        for name, file in files.items()
        if file and file not in lists[name]
    )


def with_gguf(error: WrongFile) -> WrongFile:
    """The error, with what opens a GGUF file of Klein 9B's that lies in the folder of the input that it is about."""
    notes = [_gguf_note(name) for name in _GGUF_LOADERS if f"but {name} needs" in str(error)]
    return WrongFile(" ".join(filter(None, [str(error), *notes])))


def _gguf_note(name: str) -> str:
    loader, kind = _GGUF_LOADERS[name]
    folders = folder_paths.get_folder_paths(FOLDERS[name])
    files = (file.name for folder in folders for file in Path(folder).rglob("*.gguf"))
    found = next((file for file in files if file_names.is_kleins(file, kind)), None)
    if found is None:
        return ""
    return f"There is {found}: a GGUF file is opened by {loader} of the pack ComfyUI-GGUF, in place of this loader."
