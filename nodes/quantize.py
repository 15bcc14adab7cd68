"""Klein 9B Quantize: a model or text encoder file into ComfyUI's own int8, layer by layer."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..klein.file_names import DIFFUSION_MODEL, TEXT_ENCODER, klein_first
from ..klein.quantize import FORMAT, MADE_BY, CannotQuantize, Hear, new_size, plan_job, quantize
from ..klein.quantize_report import Report
from ..klein.tensor_file import UNFINISHED
from .host.newer_host import MissingFromHost, needs_host, this_host
from .host.text import show_text

log = logging.getLogger(__name__)

_FOLDERS = ("diffusion_models", "text_encoders")
_ENDINGS = (".safetensors", ".sft")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_OLD_FORMAT = re.compile(r"[ ._-](bf16|fp16|fp32|fp8\w*)$", re.IGNORECASE)
_PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


class Klein9BQuantize(io.ComfyNode):
    """Writes an int8 file beside the chosen one, which stock ComfyUI loads without this pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BQuantize",
            display_name="Klein 9B Quantize",
            category="Klein 9B/More",
            description=(
                "Makes an int8 file of a Klein 9B model or of its text encoder, in ComfyUI's own format "
                "(int8_tensorwise with rotation): half the size of bf16, with products that an NVIDIA card since the "
                "RTX 20 series computes faster. Takes little RAM. The new file lies beside the old one, which stays."
            ),
            search_aliases=["int8", "convrot", "convert", "quantise", "smaller file", "save int8", "compress model"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_installed(),
                    tooltip="A Klein 9B model or its text encoder Qwen3-8B, in bf16, fp16 or fp8. From bf16 the int8 "
                    "file comes nearest to the original.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the new file, which lies in the same folder. Empty: the old name with int8 at its "
                    "end. A file that is there is never overwritten.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report", tooltip="Sizes, and for each matrix how far its int8 is from the old file's."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Whether the new file is there already is seen anew in every run."""
        return float("nan")

    @classmethod
    def execute(cls, file: str, name: str) -> io.NodeOutput:
        folder, _, inside = file.partition("/")
        source = Path(folder_paths.get_full_path_or_raise(folder, inside))
        try:
            _check_host()
            hear = _progress()
            report = _quantize(source, source.with_name(new_name(source, name)), hear)
        except (CannotQuantize, MissingFromHost) as error:
            return cls._without_file(str(error))
        show_text(cls, report.summary())
        return io.NodeOutput(report.table())

    @classmethod
    def _without_file(cls, why: str) -> io.NodeOutput:
        """Stops what is connected to it and nothing else: a picture in the same graph does not wait for this file."""
        show_text(cls, why)
        log.warning("Klein 9B Quantize writes nothing: %s", why)
        return io.NodeOutput(block_execution=why)


def new_name(source: Path, asked: str) -> str:
    """The new file's name: what was asked for, else the old one with int8 in the place of its format.

    Raises:
        CannotQuantize: it is no plain name.
    """
    name = asked.strip()
    if not name:
        stem = _OLD_FORMAT.sub("", source.stem)
        return f"{stem}{'_' if '_' in stem else '-'}int8.safetensors"
    if _FORBIDDEN.search(name) or name.startswith("."):
        raise CannotQuantize(
            f"name is {name!r}, but must be a file's name without a folder: the new file lies beside the old."
        )
    return name if name.endswith(_ENDINGS) else f"{name}.safetensors"


def _quantize(source: Path, target: Path, hear: Hear) -> Report:
    if target.exists():
        raise CannotQuantize(_is_there(target))
    job = plan_job(source)
    made_by = {MADE_BY: _this_pack()}
    _check_room(target, new_size(job, made_by))
    try:
        return quantize(job, target, made_by, hear)
    except FileExistsError as error:
        raise CannotQuantize(_is_there(Path(error.filename))) from error
    except OSError as error:
        raise CannotQuantize(_unwritten(target, error)) from error


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise CannotQuantize(
            f"{target.name} needs {needed / 1e9:.2f} GB in {target.parent}, and {free / 1e9:.2f} GB are free there: "
            "make room first."
        )


def _is_there(path: Path) -> str:
    if path.name.endswith(UNFINISHED):
        return (
            f"{path.name} is in {path.parent}: it is being written, or was left when ComfyUI was stopped. Delete it if "
            "nothing writes it."
        )
    return f"{path.name} is in {path.parent} already, and is not overwritten: give another name, or delete it."


def _unwritten(target: Path, error: OSError) -> str:
    why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return f"{target.name} could not be written to {target.parent} ({why}), and nothing of it is left there."


@needs_host()
def _progress() -> Hear:
    """The host's bar in percent; a cancelled run ends at the next block."""
    import comfy.model_management
    import comfy.utils

    bar = comfy.utils.ProgressBar(100)
    stop_if_cancelled = comfy.model_management.throw_exception_if_processing_interrupted

    def hear(done: int, total: int) -> None:
        stop_if_cancelled()
        bar.update_absolute(100 * done // max(total, 1))

    return hear


@needs_host()
def _check_host() -> None:
    """Whether this ComfyUI loads what would be written.

    Raises:
        CannotQuantize: it does not.
    """
    import comfy.quant_ops

    algorithms, layout_of = comfy.quant_ops.QUANT_ALGOS, comfy.quant_ops.get_layout_class
    layout = layout_of(algorithms[FORMAT]["comfy_tensor_layout"]) if FORMAT in algorithms else None
    fields = getattr(getattr(layout, "Params", None), "__dataclass_fields__", {})
    if "convrot_groupsize" not in fields:
        raise CannotQuantize(
            f"{this_host()} does not load int8 with rotation, as its comfy-kitchen is missing or of another version: "
            "install ComfyUI's requirements.txt anew."
        )


def _installed() -> list[str]:
    """With the folder before the name, since two folders may have the same. Klein 9B's come first."""
    listed = ((folder, name) for folder in _FOLDERS for name in folder_paths.get_filename_list(folder))
    names = [f"{folder}/{name}" for folder, name in listed if name.endswith(_ENDINGS)]
    return klein_first(names, DIFFUSION_MODEL, TEXT_ENCODER)


def _this_pack() -> str:
    found = re.search(r'^version = "(.+)"$', _PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    return f"Klein 9B {found[1]}" if found else "Klein 9B"
