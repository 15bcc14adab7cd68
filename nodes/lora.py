"""Klein 9B LoRA: a LoRA file of any dialect onto the weights of a MODEL, through the host."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
from comfy_api.v0_0_2 import io

from ..klein.checkpoint import AddOn, describe, identify
from ..klein.file_names import LORA, klein_first
from ..klein.lora import LoraPlan, not_placed, plan_lora, refuse_unplaced, summary, tensors_for_host
from ..klein.lora_family import name_of
from ..klein.lora_names import Place
from ..klein.lora_parts import DORA, modules_of
from ..klein.safetensors_header import Header, UnreadableFile, read_header
from ..klein.vram import KLEIN_9B, Dims
from .host.decomposed_weight import with_magnitude
from .host.fits import dims_of
from .host.newer_host import needs_host
from .host.text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

log = logging.getLogger(__name__)

_EVERY = 10**6


class Klein9BLora(io.ComfyNode):
    """Adds a LoRA to the model, whoever trained it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BLora",
            display_name="Klein 9B LoRA",
            category="Klein 9B",
            description=(
                "Adds a LoRA, LoHa or LoKr to a Klein 9B model, whichever trainer named its layers. Says how many "
                "layers it changes, and names each one that it cannot place. Several nodes in a row add up."
            ),
            search_aliases=["load lora", "lora loader", "lokr", "loha", "lycoris", "lora not loaded"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Klein 9B model. Klein 9B Accelerate and Klein 9B Reference Cache may come before or "
                    "after this node.",
                ),
                io.Combo.Input(
                    "lora",
                    options=klein_first(folder_paths.get_filename_list("loras"), LORA),
                    tooltip="A .safetensors file from models/loras, trained on Klein 9B.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much of the LoRA is added. 1: as it was trained. 0: nothing. Below 0 it is "
                    "taken away.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="For a guider, or for the next LoRA. The model before it stays."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @needs_host()
    def execute(cls, model: ModelPatcher, lora: str, strength: float) -> io.NodeOutput:
        dims = _dims(model)
        header = _header(folder_paths.get_full_path_or_raise("loras", lora))
        if strength == 0:
            show_text(cls, "strength 0: the model stays as it is")
            return io.NodeOutput(model)
        plan = _plan(header, dims)
        tensors = tensors_for_host(plan, _read(header.path))
        changed = with_lora(model, plan, tensors, strength)
        for line in not_placed(plan, most=_EVERY):
            log.warning("Klein 9B LoRA, %s: %s", header.path.name, line)
        show_text(cls, "\n".join([summary(plan, tensors), *not_placed(plan)]))
        return io.NodeOutput(changed)


def with_lora(model: ModelPatcher, plan: LoraPlan, tensors: dict[str, Tensor], strength: float) -> ModelPatcher:
    """A clone of the model with a planned LoRA on its weights, as the host keeps LoRAs.

    Raises:
        RuntimeError: the host took less than was planned.
    """
    import comfy.lora

    places = {one.name: _in_host(one.place) for one in plan.adapters}
    magnitudes = {name: tensor for name in places if (tensor := tensors.get(f"{name}.{DORA}")) is not None}
    rest = {key: tensor for key, tensor in tensors.items() if not key.endswith(f".{DORA}")}
    patches = comfy.lora.load_lora(rest, places, log_missing=False)
    for name, magnitude in magnitudes.items():
        patches[places[name]] = with_magnitude(patches[places[name]], magnitude)
    changed = model.clone()
    taken = set(changed.add_patches(patches, strength))
    lost = [name for name, place in places.items() if place not in taken]
    if lost:
        raise RuntimeError(f"ComfyUI did not take {len(lost)} of {len(places)} layers of this LoRA ({lost[0]}).")
    return changed


def _plan(header: Header, dims: Dims) -> LoraPlan:
    """Raises ValueError where nothing of the file has a place."""
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    plan = plan_lora(shapes, dims, header.metadata)
    if not modules_of(shapes)[0] and identify(header) is not AddOn.LORA:
        raise ValueError(f"{header.path.name} is {describe(header)}, not a LoRA: choose a LoRA for FLUX.2 [klein] 9B.")
    refuse_unplaced(plan, shapes, dims, header.path.name)
    return plan


def _in_host(place: Place) -> str | tuple[str, tuple[int, int, int]]:
    """How the host's patches name a weight, or rows of one."""
    key = f"diffusion_model.{place.layer}.weight"
    return key if place.whole else (key, (0, place.start, place.rows))


def _dims(model: ModelPatcher) -> Dims:
    module = model.get_model_object("diffusion_model")
    if not hasattr(module, "params") or not getattr(module.params, "global_modulation", False):
        raise ValueError(f"The model is a {type(module).__name__}, but this node needs FLUX.2 [klein] 9B.")
    dims = dims_of(module)
    if dims.context != KLEIN_9B.context:
        raise ValueError(f"The model is {name_of(dims)}, but this node needs FLUX.2 [klein] 9B.")
    return dims


def _header(path: str) -> Header:
    """Raises ValueError for what is no whole safetensors file."""
    try:
        return read_header(path)
    except UnreadableFile as error:
        raise ValueError(f"{str(error).removesuffix('.')}: choose a LoRA in .safetensors.") from None


def _read(path: Path) -> dict[str, Tensor]:
    import comfy.utils

    tensors: dict[str, Tensor] = comfy.utils.load_torch_file(str(path), safe_load=True)
    return tensors
