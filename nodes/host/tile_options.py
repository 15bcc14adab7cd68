"""Where the host's options and a LATENT say that a picture is painted in tiles, and which one is being painted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...klein.latent import latent_tokens
from ...klein.tiles import Tiles, Tiling, Window

_TILING = "klein9b_tiling"
WHERE = "klein9b_tile"


@dataclass(frozen=True)
class Tile:
    """The part of a picture that is evaluated.

    Attributes:
        picture: its height and width, in cells of the latent.
    """

    window: Window
    picture: tuple[int, int]


def with_tiling_in(model_options: dict[str, Any], tiling: Tiling) -> dict[str, Any]:
    """A model's options that say how it is tiled."""
    return {**model_options, "transformer_options": {**model_options["transformer_options"], _TILING: tiling}}


def tiles_of(model_options: Mapping[str, Any], shape: Sequence[int]) -> Tiles | None:
    """Those of a latent of that shape; None where one tile is the picture."""
    tiling: Tiling | None = model_options.get("transformer_options", {}).get(_TILING)
    return tiling.tiles_if_several(*shape[-2:]) if tiling and len(shape) == 4 else None


def tiled_latent(latent: dict[str, Any], tiling: Tiling) -> dict[str, Any]:
    """The same, to be sampled in tiles."""
    return {**latent, _TILING: tiling}


def schedule_tokens(latent: dict[str, Any]) -> int:
    """Those that the model sees of it at once: what its schedule is made for.

    Raises:
        ValueError: it is another model's latent.
    """
    tokens = latent_tokens(latent["samples"].shape)
    tiling: Tiling | None = latent.get(_TILING)
    return tiling.tiles(*latent["samples"].shape[-2:]).tokens if tiling else tokens
