"""Files that Klein 9B Loader is asked for and cannot have, and GGUF files that lie where they should."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...klein.file_set import WrongFile, absent

FOLDERS = {"diffusion_model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}
_GGUF_LOADERS = {"diffusion_model": "Unet Loader (GGUF)", "text_encoder": "CLIPLoader (GGUF)"}


def absent_because(**files: str | None) -> str:
    """Which of the files, by their inputs, are not in their folders and what to do; empty where all are."""
    lists = {name: folder_paths.get_filename_list(folder) for name, folder in FOLDERS.items()}
    return " ".join(
        str(with_gguf(absent(name, file), name)) for name, file in files.items() if file and file not in lists[name]
    )


def with_gguf(error: WrongFile, *names: str) -> WrongFile:
    """The error, with what opens the GGUF files in the folders of those inputs that it names."""
    notes = [_gguf_note(name) for name in names or FOLDERS if name in str(error)]
    return WrongFile(" ".join(filter(None, [str(error), *notes])))


def _gguf_note(name: str) -> str:
    found = [file for folder in folder_paths.get_folder_paths(FOLDERS[name]) for file in Path(folder).rglob("*.gguf")]
    if not found or name not in _GGUF_LOADERS:
        return ""
    return (
        f"There is {found[0].name}: a GGUF file is opened by {_GGUF_LOADERS[name]} of the pack ComfyUI-GGUF, in place "
        "of this loader."
    )
