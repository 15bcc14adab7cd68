"""What cannot fit the card, said before it dies in the middle.

Only what is certain is refused: on NVIDIA's cards, whose memory is known, and where the model runs as the host made it.
Every other node that changes how it runs may make it fit, and so nothing is refused behind one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...klein.framing import GRID, Size
from ...klein.kv_store import Storage
from ...klein.vram import TEXT_TOKENS, Dims, Job, refuse_unfit, refuse_unfit_references
from .cache_memory import KEY as CACHE
from .card import device_name
from .list_progress import KEY as LIST
from .newer_host import MissingFromHost, needs_host
from .settings_said import KEY as SETTINGS

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

KEY = "klein9b_fits"
# A conditioning with one of these may see a part of the picture, or run in no step at all.
_PARTIAL = {"area", "start_percent", "end_percent", "timestep_start", "timestep_end", "hooks", "control", "default"}
_OPTIONS = ("transformer_options", "to_load_options")
_WATCHED = {"wrappers"}
SMALLEST = Dims(hidden=3072)


def watch(model: ModelPatcher) -> None:
    """Lets the model refuse runs that cannot fit; without it where this host has no place for that."""
    try:
        _watch(model)
    except MissingFromHost as error:
        log.info("Klein 9B does not check whether a run fits. %s", error)


@needs_host()
def _watch(model: ModelPatcher) -> None:
    import comfy.patcher_extension

    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kind, KEY, outer_sample)


def outer_sample(
    executor: WrapperExecutor, noise: Tensor, latent: Tensor, sampler: Any, *args: Any, **kwargs: Any
) -> Tensor:
    """Around a run, before the host loads anything for it.

    Raises:
        DoesNotFit: see `klein.vram.refuse_unfit`.
    """
    try:
        if _is_of_host(executor.class_obj) and _is_of_host(getattr(sampler, "sampler_function", sampler)):
            _refuse_run(executor.class_obj, noise)
    except MissingFromHost as error:
        log.info("Klein 9B does not check whether this run fits. %s", error)
    return executor(noise, latent, sampler, *args, **kwargs)


def _is_of_host(thing: Any) -> bool:
    """Another pack's guider or sampler may take the picture to pieces. Our samplers do not."""
    module = getattr(thing, "__module__", "") or ""
    return module.split(".")[0] in ("comfy", "comfy_extras", __name__.split(".")[0])


@needs_host()
def _refuse_run(guider: Any, noise: Tensor) -> None:
    patcher = guider.model_patcher
    room = _room(patcher.load_device)
    if room is None or noise.ndim != 4 or _is_changed(patcher, guider.model_options):
        return
    dims = dims_of(patcher.model.diffusion_model)
    for job in _jobs(noise, guider.conds.get("positive") or (), is_cached=_is_cached(patcher)):
        refuse_unfit(dims, job, *room)


def dims_of(model: Any) -> Dims:
    """Of the host's Flux module."""
    return Dims(model.hidden_size, len(model.double_blocks), len(model.single_blocks), model.params.context_in_dim)


def refuse_references(sizes: Sequence[Size]) -> None:
    """Before references are encoded. The model is not known yet: the narrowest of FLUX.2 is taken, Klein 4B.

    Raises:
        DoesNotFit: see `klein.vram.refuse_unfit_references`.
    """
    try:
        _refuse_references(sizes)
    except MissingFromHost as error:
        log.info("Klein 9B does not check whether references fit. %s", error)


@needs_host()
def _refuse_references(sizes: Sequence[Size]) -> None:
    import comfy.model_management

    room = _room(comfy.model_management.get_torch_device()) if sizes else None
    if room is not None:
        refuse_unfit_references(SMALLEST, sizes, *room)


def _room(device: torch.device) -> tuple[int, str] | None:
    """What may be allocated on a device at all, and its name; None where nobody knows for certain.

    All of the card's memory, as other programs may leave; and on Windows the half of the RAM that its driver spills to.
    """
    import comfy.model_management as management

    if management.is_device_cpu(device) or not management.is_device_cuda(device) or not management.is_nvidia():
        return None
    spilled = management.get_total_memory(torch.device("cpu")) // 2 if management.WINDOWS or management.is_wsl() else 0
    return int(management.get_total_memory(device) + spilled), device_name(device)


def _is_changed(patcher: ModelPatcher, options: Mapping[str, Any]) -> bool:
    """Whether anything else has a say in how the model is evaluated."""
    groups = [options.get(name, {}) for name in _OPTIONS]
    wrappers = (patcher.wrappers, *(group.get("wrappers", {}) for group in groups))
    keys = {key for kinds in wrappers for kind in kinds.values() for key, added in kind.items() if added}
    hung = [patcher.object_patches, patcher.injections]
    hung += [value for group in groups for name, value in group.items() if name not in _WATCHED]
    hung += [value for name, value in options.items() if name not in _OPTIONS]
    return bool(keys - {KEY, CACHE, LIST, SETTINGS}) or any(map(_says_something, hung))


def _says_something(value: Any) -> bool:
    return not (value is None or value is False or (isinstance(value, dict | list | tuple) and not value))


def _is_cached(patcher: ModelPatcher) -> bool:
    return any(CACHE in kind for kind in patcher.wrappers.values())


def _jobs(noise: Tensor, conds: Sequence[Mapping[str, Any]], *, is_cached: bool) -> list[Job]:
    """One for each conditioning that is certainly evaluated, on the whole picture."""
    picture, batch = _size(noise), noise.shape[0]
    cache = Storage.MODEL if is_cached else None
    return [
        Job(
            picture,
            tuple(_size(latent) for latent in cond.get("reference_latents") or ()),
            batch=batch,
            cache=cache,
            text_tokens=_text_tokens(cond),
        )
        for cond in conds
        if not _PARTIAL & cond.keys()
    ]


def _size(latent: Tensor) -> Size:
    return Size(latent.shape[-1] * GRID, latent.shape[-2] * GRID)


def _text_tokens(cond: Mapping[str, Any]) -> int:
    """The host pads a shorter prompt."""
    embeds = cond.get("cross_attn")
    return TEXT_TOKENS if embeds is None else max(TEXT_TOKENS, embeds.shape[1])
