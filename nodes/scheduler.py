"""Klein 9B Scheduler: FLUX.2's sigmas for a latent."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..klein.schedule import FIXED_MU, klein_sigmas
from .host.latent_strength import strength_of
from .host.tile_options import schedule_tokens


class Klein9BScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BScheduler",
            display_name="Klein 9B Scheduler",
            category="Klein 9B",
            description=(
                "Decides how much noise is left after each step. FLUX.2 shifts its steps towards the noisy "
                "end by the size of the picture, which is read from the latent."
            ),
            search_aliases=["klein scheduler", "flux2 scheduler", "sigmas", "schedule", "shift", "mu"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="The latent to be sampled; its size sets the shift, or that of its tiles "
                    "behind Klein 9B Tiles.",
                ),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=1,
                    max=10000,
                    tooltip="4 for the distilled Klein, 20 or more for the base model.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "1 starts from pure noise. Below 1 keeps some of the incoming latent: the same "
                        "number of steps, taken from the end of a longer schedule. Multiplied by the strength of "
                        "Klein 9B Inpaint, where the latent comes from there."
                    ),
                ),
                io.DynamicCombo.Input(
                    "shift",
                    options=[
                        io.DynamicCombo.Option("flux2", []),
                        io.DynamicCombo.Option("fixed", [_mu_input()]),
                        io.DynamicCombo.Option("smooth", []),
                    ],
                    tooltip=(
                        "flux2: Black Forest Labs' own, the same as Flux2Scheduler; it drops sharply above "
                        "1.05 megapixels. smooth: the same without the drop. fixed: one shift for every size."
                    ),
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="Noise levels from high to low.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], steps: int, denoise: float, shift: dict[str, Any]) -> io.NodeOutput:
        tokens = schedule_tokens(latent)
        mu = shift.get("mu", FIXED_MU)
        return io.NodeOutput(klein_sigmas(steps, tokens, denoise * strength_of(latent), shift["shift"], mu))


def _mu_input() -> io.Input:
    return io.Float.Input(
        "mu",
        default=FIXED_MU,
        min=-10.0,
        max=10.0,
        step=0.01,
        tooltip="Higher gives composition more of the steps, lower detail. 2.02 is ComfyUI's for FLUX.2.",
    )
