"""Klein 9B Reference Cache: references are computed once, not in every step of every run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..klein.kv_store import Placement, Storage
from .host.cache_memory import KEY
from .host.cache_run import GIB, CachedReferences, Settings
from .host.loaded_klein import loaded_klein
from .host.newer_host import MissingFromHost, needs_host
from .host.step_aside import step_aside
from .host.text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

BETWEEN_RUNS = "between runs"
THIS_RUN = "this run"
TRAINED = "kv"


class Klein9BReferenceCache(io.ComfyNode):
    """Keeps the references' keys and values, as klein-9b-kv was trained to use them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BReferenceCache",
            display_name="Klein 9B Reference Cache",
            category="Klein 9B/More",
            description=(
                "Makes edits with klein-9b-kv faster: reference images are computed once and reused in every step, "
                "and in every later run with the same references, whatever the prompt, seed or size. Exact: the "
                "picture is the one klein-9b-kv was trained to make. Replaces Flux KV Cache; do not use both."
            ),
            search_aliases=["kv cache", "flux kv cache", "klein kv", "reference cache", "faster edit", "speed up"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A klein-9b-kv model from Klein 9B Loader. LoRAs may come before or after this node.",
                ),
                io.Combo.Input(
                    "storage",
                    options=[storage.value for storage in Storage],
                    default=Storage.MODEL.value,
                    tooltip="How references are kept. model dtype: exact, about 2 GiB for each megapixel of "
                    "reference. int8: about half of that, approximate. int4: less than a third, coarser.",
                ),
                io.Float.Input(
                    "memory_gib",
                    default=8.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="GiB of references kept between runs, in VRAM and RAM together. The longest unused are "
                    "dropped first. ComfyUI moves them to RAM whenever it needs the VRAM.",
                ),
                io.Combo.Input(
                    "keep",
                    options=[BETWEEN_RUNS, THIS_RUN],
                    default=BETWEEN_RUNS,
                    tooltip="between runs: a new prompt or seed finds its references ready. this run: they are "
                    "computed once in each run and everything is freed when it ends.",
                ),
                io.Boolean.Input(
                    "any_model",
                    default=False,
                    tooltip="Also cache on weights other than klein-9b-kv. They were not trained for it: the "
                    "picture is an approximation. Off: such a model passes through unchanged.",
                ),
                io.Combo.Input(
                    "placement",
                    options=[placement.value for placement in Placement],
                    default=Placement.AUTO.value,
                    optional=True,
                    tooltip="Where references lie during a run. auto: in VRAM as far as there is room, the rest in "
                    "RAM. gpu: all in VRAM, or the run ends and says how much is missing. cpu: all in RAM, brought "
                    "back layer by layer, so that VRAM stays free for the model.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with its references cached.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        storage: str,
        memory_gib: float,
        keep: str,
        any_model: bool,
        placement: str = Placement.AUTO.value,
    ) -> io.NodeOutput:
        budget = int(memory_gib * GIB) if keep == BETWEEN_RUNS else 0
        settings = Settings(Storage(storage), budget, "", _shower(cls), Placement(placement))
        try:
            return io.NodeOutput(cls._cached(model, settings, any_model))
        except MissingFromHost as error:
            show_text(cls, f"OFF: {step_aside(error)}")
            return io.NodeOutput(model)

    @classmethod
    @needs_host()
    def _cached(cls, model: ModelPatcher, settings: Settings, any_model: bool) -> ModelPatcher:
        doubt = untrained_because(model)
        if doubt and not any_model:
            show_text(cls, f"OFF: {doubt}")
            return model
        return with_cached_references(model, replace(settings, approximate=doubt))


def with_cached_references(model: ModelPatcher, settings: Settings) -> ModelPatcher:
    """A clone whose references are cached; the model itself stays as it was. Replaces an earlier cache on it."""
    import comfy.patcher_extension

    cached = model.clone()
    wrappers = CachedReferences(settings)
    for kind, wrapper in (
        (comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, wrappers.outer_sample),
        (comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, wrappers.prepare_sampling),
        (comfy.patcher_extension.WrappersMP.APPLY_MODEL, wrappers.apply_model),
    ):
        cached.remove_wrappers_with_key(kind, KEY)
        cached.add_wrapper_with_key(kind, KEY, wrapper)
    return cached


def untrained_because(model: ModelPatcher) -> str:
    """Why these weights may not be klein-9b-kv, empty when they are."""
    loaded = loaded_klein(model)
    if loaded is None:
        return (
            "this model does not say whether it is klein-9b-kv. Load it with Klein 9B Loader, or switch any_model "
            "on if you know that it is"
        )
    if loaded.variant.name != TRAINED:
        return (
            f"these weights are klein-9b {loaded.variant.name} ({loaded.variant.source}), not trained for cached "
            "references. Load flux-2-klein-9b-kv, or switch any_model on for an approximation"
        )
    return ""


def _shower(node: type[io.ComfyNode]) -> Any:
    """Shows text under this node later on, while a sampler runs."""

    def show(text: str) -> None:
        show_text(node, text)

    return show
