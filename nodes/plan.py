"""Klein 9B Plan: what fits the card, before anything is downloaded or loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from ..klein import file_names
from ..klein.framing import GRID, output_size, snap
from ..klein.kv_store import Storage
from ..klein.official_files import ENCODERS, MODELS, VAES, encoder_file, model_file, official, vae_file
from ..klein.plan import Files, Plan, report
from ..klein.plan_picture import draw_plan
from ..klein.prompt import MOST_IMAGES
from ..klein.residency import GIB, Card, imagined_card
from ..klein.vram import Job
from .host.card import this_card
from .host.newer_host import MissingFromHost
from .host.text import show_text

log = logging.getLogger(__name__)

OFF = "off"
_MODEL_FOLDERS = ("diffusion_models", "unet_gguf")
_ENCODER_FOLDERS = ("text_encoders", "clip_gguf")
_VAE_FOLDERS = ("vae",)
_SIDE: dict[str, Any] = {"default": 1024, "min": 64, "max": 4096, "step": GRID}
_GIB: dict[str, Any] = {"default": 0.0, "min": 0.0, "max": 1024.0, "step": 0.5}


class Klein9BPlan(io.ComfyNode):
    """Says what a job takes of a card, as text and as bars, from the files' headers or their names alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BPlan",
            display_name="Klein 9B Plan",
            category="Klein 9B/More",
            description=(
                "Says what fits your graphics card, before anything is downloaded or loaded: what stays in VRAM, what "
                "streams in every step, and the cheapest change that helps. Files that are not installed are there by "
                "their official names."
            ),
            search_aliases=["vram", "memory plan", "will it fit", "out of memory", "oom", "which klein file"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "diffusion_model",
                    options=_options(_MODEL_FOLDERS, MODELS, file_names.DIFFUSION_MODEL),
                    tooltip="An installed Klein 9B file, or an official one that you think of downloading.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=_options(_ENCODER_FOLDERS, ENCODERS, file_names.TEXT_ENCODER),
                    tooltip="An installed Qwen3-8B file, or an official one. Klein needs 27 of its 36 layers.",
                ),
                io.Combo.Input(
                    "vae",
                    options=_options(_VAE_FOLDERS, VAES, file_names.VAE),
                    tooltip="An installed FLUX.2 VAE, or an official one. The small decoder takes less to decode.",
                ),
                io.Int.Input("width", tooltip="Width of the new picture in pixels.", **_SIDE),
                io.Int.Input("height", tooltip="Height of the new picture in pixels.", **_SIDE),
                io.Int.Input(
                    "references", default=0, min=0, max=MOST_IMAGES, tooltip="How many reference images are used."
                ),
                io.Float.Input(
                    "reference_megapixels",
                    default=1.0,
                    min=0.06,
                    max=4.0,
                    step=0.01,
                    tooltip="Size of each reference as it is encoded, in units of 1024x1024 pixels. Several references "
                    "have at most 1 each, a single one at most 4.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Above 1 the negative prompt is evaluated too: at once if there is room, else in turn.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many pictures are made at once."),
                io.Combo.Input(
                    "reference_cache",
                    options=[OFF, *(storage.value for storage in Storage)],
                    default=OFF,
                    tooltip="How Klein 9B Reference Cache keeps the references, off without it.",
                ),
                io.Float.Input(
                    "vram_gib",
                    tooltip="Memory of the graphics card in GiB: 12 for a card of 12 GB. 0: this machine's, as it is "
                    "free now.",
                    **_GIB,
                ),
                io.Float.Input("ram_gib", tooltip="Free RAM in GiB. 0: this machine's, as it is free now.", **_GIB),
            ],
            outputs=[
                io.String.Output(display_name="plan", tooltip="The plan in words; its first line is the verdict."),
                io.Image.Output(display_name="picture", tooltip="The plan as bars: what fills the card in each phase."),
                io.Boolean.Output(
                    display_name="fits",
                    tooltip="Whether it runs at all, with weights streamed too. For Klein 9B Switch.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, vram_gib: float, ram_gib: float, **_: object) -> Any:
        """What is free now is read anew in every run."""
        return float("nan") if not (vram_gib and ram_gib) else None

    @classmethod
    def execute(
        cls,
        diffusion_model: str,
        text_encoder: str,
        vae: str,
        width: int,
        height: int,
        references: int,
        reference_megapixels: float,
        cfg: float,
        batch_size: int,
        reference_cache: str,
        vram_gib: float,
        ram_gib: float,
    ) -> io.NodeOutput:
        try:
            card = _card(vram_gib, ram_gib)
        except (MissingFromHost, ValueError) as error:
            return cls._without_plan(str(error))
        files = Files(
            model_file(diffusion_model, _path(diffusion_model, _MODEL_FOLDERS, MODELS)),
            encoder_file(text_encoder, _path(text_encoder, _ENCODER_FOLDERS, ENCODERS)),
            vae_file(vae, _path(vae, _VAE_FOLDERS, VAES)),
        )
        sizes = (output_size("1:1", reference_megapixels),) * references
        cache = None if reference_cache == OFF else Storage(reference_cache)
        plan = Plan(files, Job(snap(width, height), sizes, batch_size, cfg > 1, cache), card)
        text = report(plan)
        picture = torch.from_numpy(np.asarray(draw_plan(plan), np.float32) / 255)[None]
        show_text(cls, text)
        return io.NodeOutput(text, picture, plan.fits, ui=ui.PreviewImage(picture))

    @classmethod
    def _without_plan(cls, why: str) -> io.NodeOutput:
        """Stops what is connected to it and nothing else: a picture in the same graph needs no plan."""
        show_text(cls, why)
        log.warning("Klein 9B Plan makes none: %s", why)
        return io.NodeOutput(block_execution=why)


def _options(folders: tuple[str, ...], files: Mapping[str, object], kind: file_names.Kind) -> list[str]:
    """Klein 9B's that are installed, the official files under their plain names, then what else is installed."""
    installed = file_names.klein_first(_installed(folders), kind)
    ours = [name for name in installed if file_names.is_kleins(name, kind)]
    return list(dict.fromkeys([*ours, *(f"{name}.safetensors" for name in files), *installed]))


def _installed(folders: tuple[str, ...]) -> list[str]:
    return [name for folder in folders if _is_known(folder) for name in folder_paths.get_filename_list(folder)]


def _path(name: str, folders: tuple[str, ...], files: Mapping[str, object]) -> Path | None:
    """Of an official file also where it lies in a folder of its own."""
    known = official(name, files)
    same = [one for one in _installed(folders) if known is not None and official(one, files) == known]
    names = [name, *same]
    tried = (folder_paths.get_full_path(folder, one) for one in names for folder in folders if _is_known(folder))
    found = next((path for path in tried if path), None)
    return None if found is None else Path(found)


def _is_known(folder: str) -> bool:
    """GGUF loaders bring folders of their own."""
    return folder in folder_paths.folder_names_and_paths


def _card(vram_gib: float, ram_gib: float) -> Card:
    """This machine's, with the memory that was asked for.

    Raises:
        ValueError: nobody knows this card's memory, and none was given.
    """
    if vram_gib and ram_gib:
        return imagined_card(vram_gib, int(ram_gib * GIB))
    card = this_card()
    if ram_gib:
        card = replace(card, ram=int(ram_gib * GIB))
    if vram_gib:
        return imagined_card(vram_gib, card.ram)
    if card.total is None:
        raise ValueError(f"ComfyUI does not know how much memory {card.name} has: set vram_gib to it.")
    return card
