"""A MODEL that paints a picture tile by tile, by the host's wrappers around every step and around loading.

The host's own evaluation of all conditionings is called for each tile as if the tile were the picture, so that what
acts inside it (the reference cache, attention settings, what the host evaluates at once) acts on the tile.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...klein.tiles import Tiles, Tiling, Window, pixels
from .attention_settings import is_only_settings
from .newer_host import needs_host
from .tile_options import WHERE, Tile, tiles_of, with_tiling_in

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

KEY = "klein9b_tiles"
_PICTURE_WIDE = {
    "area": "a conditioning that is set to an area",
    "gligen": "GLIGEN boxes",
    "attention_mask_img_shape": "a conditioning with an attention mask over the picture",
}


class Untileable(ValueError):
    """Something that belongs to the whole picture cannot be cut to a tile; the message says what and what to do."""


@needs_host()
def with_tiles(model: ModelPatcher, tiling: Tiling) -> ModelPatcher:
    """A clone that paints in tiles; the model itself stays as it was. Replaces an earlier tiling on it."""
    import comfy.patcher_extension

    reached_for()
    tiled = model.clone()
    for kind, wrapper in (
        (comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, prepare_sampling),
        (comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, calc_cond_batch),
    ):
        tiled.remove_wrappers_with_key(kind, KEY)
        tiled.add_wrapper_with_key(kind, KEY, wrapper)
    tiled.model_options = with_tiling_in(tiled.model_options, tiling)
    return tiled


def reached_for() -> tuple[object, ...]:
    """What is looked up in the host while it samples, so that its absence is told beforehand."""
    import comfy.conds
    import comfy.model_management

    return comfy.conds.CONDNoiseShape, comfy.model_management.throw_exception_if_processing_interrupted


def prepare_sampling(
    executor: WrapperExecutor,
    model: ModelPatcher,
    noise_shape: Sequence[int],
    conds: dict[str, list[dict[str, Any]]],
    model_options: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Has the host make room for one tile, not for the picture.

    Raises:
        Untileable: before anything is loaded.
    """
    tiles = tiles_of(model_options, noise_shape)
    if tiles is None:
        return executor(model, noise_shape, conds, model_options, *args, **kwargs)
    for cond in (cond for kind in conds.values() for cond in kind or ()):
        _refuse(cond)
    of_tile = {kind: [_prepared(cond, tiles) for cond in each or ()] for kind, each in conds.items()}
    shape = [*noise_shape[:-2], *tiles.size]
    real_model, _, models = executor(model, shape, of_tile, model_options, *args, **kwargs)
    return real_model, conds, models


def _prepared(cond: dict[str, Any], tiles: Tiles) -> dict[str, Any]:
    """What the host estimates the memory by."""
    latents = cond.get("reference_latents")
    tile = Tile(tiles.windows[0], tiles.picture)
    return cond if not latents else cond | {"reference_latents": cropped_references(latents, tile)}


def calc_cond_batch(
    executor: WrapperExecutor,
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """One step: every tile by itself, then the weighted mean of all."""
    tiles = tiles_of(model_options, x.shape)
    if tiles is None:
        out: list[Tensor] = executor(model, conds, x, timestep, model_options)
        return out
    evaluated = [
        executor(model, cropped, window.of(x).contiguous(), timestep, options)
        for window, cropped, options in _each(tiles, conds, model_options)
    ]
    return [tiles.merged(parts).to(x.dtype) for parts in zip(*evaluated)]


@needs_host()
def _each(
    tiles: Tiles, conds: list[list[dict[str, Any]] | None], model_options: dict[str, Any]
) -> Iterator[tuple[Window, list[list[dict[str, Any]] | None], dict[str, Any]]]:
    import comfy.model_management

    for window in tiles.windows:
        comfy.model_management.throw_exception_if_processing_interrupted()
        tile = Tile(window, tiles.picture)
        options = {**model_options, "transformer_options": {**model_options["transformer_options"], WHERE: tile}}
        yield window, [each and [_of_tile(cond, tile) for cond in each] for each in conds], options


def _of_tile(cond: dict[str, Any], tile: Tile) -> dict[str, Any]:
    """A conditioning as of a picture that is the tile alone, with a name of its own for whoever keeps things by it."""
    _refuse(cond)
    made = cond | {"model_conds": {k: _part(k, v, tile) for k, v in cond.get("model_conds", {}).items()}}
    if "uuid" in cond:
        made["uuid"] = uuid.uuid5(cond["uuid"], repr(tile.window))
    if "mask" in cond:
        made["mask"] = tile.window.of(cond["mask"])
    return made


def _part(name: str, cond: Any, tile: Tile) -> Any:
    import comfy.conds

    if name == "ref_latents":
        return cond._copy_with(cropped_references(cond.cond, tile))
    if isinstance(cond, comfy.conds.CONDNoiseShape):
        return cond._copy_with(tile.window.of(cond.cond))
    return cond


def cropped_references(latents: Sequence[Tensor], tile: Tile) -> list[Tensor]:
    """The first as far as it lies in the tile, the others whole.

    Raises:
        Untileable: the first has not the picture's size.
    """
    first, *others = latents
    if tuple(first.shape[-2:]) != tile.picture:
        there, wanted = pixels((first.shape[-2], first.shape[-1])), pixels(tile.picture)
        raise Untileable(
            f"Each tile sees its own part of image 1, so that must have the picture's size, {wanted} pixels, but it "
            f"has {there}. Scale it to {wanted}, encode it with VAE Encode (Tiled) and join it to the prompt with Set "
            "Reference Latent; Klein 9B References behind that adds further images."
        )
    return [tile.window.of(first).contiguous(), *others]


def _refuse(cond: dict[str, Any]) -> None:
    inside = {**cond.get("model_conds", {}), **cond}
    found = next((words for name, words in _PICTURE_WIDE.items() if inside.get(name) is not None), None)
    if found is None and not is_only_settings(cond.get("control")):
        found = "a ControlNet"
    if found:
        raise Untileable(f"Klein 9B Tiles cannot cut {found} to its tiles. Take it out, or paint a smaller picture.")
