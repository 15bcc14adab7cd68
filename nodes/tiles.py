"""Klein 9B Tiles: pictures larger than the model paints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

from ..klein.framing import GRID
from ..klein.latent import latent_tokens
from ..klein.tiles import Tiles, Tiling, pixels
from .host.newer_host import needs_host
from .host.text import show_text
from .host.tile_options import tiled_latent
from .host.tiled_model import with_tiles

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ONE = "1 tile: the picture of {size} is no larger, so it is painted whole, as without this node."
SEVERAL = (
    "{count} tiles of {size}, {across} across and {down} down: every step evaluates the model {count} times, each time "
    "with {tokens:,} tokens of the picture. Connect this latent to Klein 9B Scheduler too."
)


class Klein9BTiles(io.ComfyNode):
    """Paints tile by tile in every step, each with its own part of image 1 as its reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BTiles",
            display_name="Klein 9B Tiles",
            category="Klein 9B/More",
            description=(
                "Paints pictures larger than Klein was trained for, up to 4096x4096 and more, in the memory of one "
                "tile. In every step each tile is painted with its own part of image 1, and with the further "
                "references whole; overlapping tiles are merged, so that no seam shows. Image 1 must have the size of "
                "the picture."
            ),
            search_aliases=[
                "tiled diffusion",
                "multidiffusion",
                "tiled upscale",
                "large picture",
                "4k",
                "ultimate upscale",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A Klein 9B model. Other nodes that change it may come before or after."
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent to be sampled: empty, or the encoded picture where denoise is below 1.",
                ),
                io.Int.Input(
                    "tile_size",
                    default=1024,
                    min=256,
                    max=2048,
                    step=GRID,
                    tooltip="The longest side of a tile in pixels. Tiles are made equal and no larger than they need "
                    "be. Larger ones see more of the picture and take more memory.",
                ),
                io.Int.Input(
                    "overlap",
                    default=128,
                    min=GRID,
                    max=1024,
                    step=GRID,
                    tooltip="How far neighbours overlap in pixels, at most half of tile_size. More hides differences "
                    "between tiles and takes more of them.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model that paints in tiles, for a guider."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The same latent, for the sampler and for Klein 9B Scheduler, which makes its schedule for "
                    "one tile.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @needs_host()
    def execute(cls, model: ModelPatcher, latent: dict[str, Any], tile_size: int, overlap: int) -> io.NodeOutput:
        latent_tokens(latent["samples"].shape)
        tiling = Tiling(tile_size // GRID, overlap // GRID)
        tiles = tiling.tiles(*latent["samples"].shape[-2:])
        show_text(cls, _described(tiles))
        return io.NodeOutput(with_tiles(model, tiling), tiled_latent(latent, tiling))


def _described(tiles: Tiles) -> str:
    if len(tiles.windows) == 1:
        return ONE.format(size=pixels(tiles.picture))
    return SEVERAL.format(
        count=len(tiles.windows),
        size=pixels(tiles.size),
        across=len(tiles.columns),
        down=len(tiles.rows),
        tokens=tiles.tokens,
    )
