"""Klein 9B Plan: whether the files, the picture and its references fit the card, before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui

from ..klein.framing import GRID, Size, output_size
from ..klein.kv_store import Storage
from ..klein.official_files import DIFFUSION_MODELS, TEXT_ENCODERS, VAES
from ..klein.plan import GIB, Card, Plan, cheapest_change, make_plan, named_card
from ..klein.plan_picture import plan_picture
from ..klein.plan_words import advice, asked, plan_in_words, verdict
from ..klein.planned_files import planned_set, smaller_files
from ..klein.vram import Job
from .host.card import this_card
from .host.newer_host import needs_host
from .host.text import show_text
from .references import MAX_IMAGES

log = logging.getLogger(__name__)

NO_CACHE = "off"
_FOLDERS = {"diffusion_model": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}
_SIDE = {"default": 1024, "min": 64, "max": 4096, "step": GRID}


def _files(folder: str, official: Mapping[str, object]) -> list[str]:
    """What is installed, and official files that are not."""
    installed = folder_paths.get_filename_list(folder)
    here = {Path(name).name for name in installed}
    return [*installed, *(name for name in official if name not in here)]


class Klein9BPlan(io.ComfyNode):
    """A memory plan from file headers, or from the official files' known sizes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BPlan",
            display_name="Klein 9B Plan",
            category="Klein 9B/Loaders",
            description=(
                "Says whether Klein 9B fits a card, what stays in VRAM, what streams, and the cheapest change that "
                "helps. Loads nothing: it reads file headers, and knows the official files before you download them."
            ),
            search_aliases=["vram", "memory", "out of memory", "oom", "which file", "gpu", "low vram", "fits"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "diffusion_model",
                    options=_files("diffusion_models", DIFFUSION_MODELS),
                    tooltip="A file you have, or an official one you could download.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=_files("text_encoders", TEXT_ENCODERS),
                    tooltip="A file you have, or an official one you could download.",
                ),
                io.Combo.Input(
                    "vae",
                    options=_files("vae", VAES),
                    tooltip="A file you have, or an official one you could download.",
                ),
                io.Int.Input("width", tooltip="Width of the new picture in pixels.", **_SIDE),
                io.Int.Input("height", tooltip="Height of the new picture in pixels.", **_SIDE),
                io.Int.Input("references", default=0, min=0, max=MAX_IMAGES, tooltip="How many reference images."),
                io.Float.Input(
                    "reference_megapixels",
                    default=1.0,
                    min=0.06,
                    max=4.0,
                    step=0.01,
                    tooltip="Area of each reference in units of 1024x1024 pixels. Klein 9B References makes several "
                    "at most 1 each, a single one at most 3.9.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Above 1, as the base model is run, the prompt and the negative are evaluated together, "
                    "which doubles what is at work.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Pictures at once."),
                io.Combo.Input(
                    "reference_cache",
                    options=[NO_CACHE, *(storage.value for storage in Storage)],
                    default=NO_CACHE,
                    tooltip="The storage of Klein 9B Reference Cache, off where the graph has none.",
                ),
                io.Float.Input(
                    "vram_gib",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=1.0,
                    tooltip="VRAM of the card in GiB: 8, 12, 16, 24. 0 is the card this ComfyUI runs on, as it is now.",
                ),
                io.Float.Input(
                    "ram_gib",
                    default=0.0,
                    min=0.0,
                    max=4096.0,
                    step=1.0,
                    tooltip="RAM of the machine in GiB. 0 is this machine's.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="plan", tooltip="The plan in words, its verdict first."),
                io.Image.Output(display_name="picture", tooltip="The plan as bars against the card's VRAM."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, vram_gib: float, ram_gib: float, **_: object) -> object:
        """What this machine has free changes, so its plan is made anew in every run."""
        return (vram_gib, ram_gib) if vram_gib and ram_gib else float("nan")

    @classmethod
    @needs_host()
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
        names = {"diffusion_model": diffusion_model, "text_encoder": text_encoder, "vae": vae}
        storage = None if reference_cache == NO_CACHE else Storage(reference_cache)
        images = (output_size("1:1", reference_megapixels),) * references
        job = Job(Size(width, height), images, batch_size, cfg > 1, storage)
        plan = make_plan(planned_set(_paths(names), names), job, _card(vram_gib, ram_gib))
        return cls._shown(plan)

    @classmethod
    def _shown(cls, plan: Plan) -> io.NodeOutput:
        change = cheapest_change(plan, smaller_files(plan.models.diffusion_model.name))
        text = plan_in_words(plan, change)
        picture = torch.from_numpy(plan_picture(plan, advice(change) or asked(plan)))[None]
        show_text(cls, text)
        log.info("Klein 9B Plan: %s", verdict(plan, change))
        return io.NodeOutput(text, picture, ui=ui.PreviewImage(picture, cls=cls))


def _paths(names: Mapping[str, str]) -> dict[str, Path | None]:
    found = {slot: folder_paths.get_full_path(_FOLDERS[slot], name) for slot, name in names.items()}
    return {slot: Path(path) if path else None for slot, path in found.items()}


def _card(vram_gib: float, ram_gib: float) -> Card:
    here = this_card()
    if vram_gib:
        return named_card(vram_gib, ram_gib or here.ram / GIB)
    return replace(here, ram=int(ram_gib * GIB)) if ram_gib else here
