"""Klein 9B Sampler: euler and res_2s as a SAMPLER."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy_api.v0_0_2 import io

from ..klein.samplers import (
    FINAL_STEPS,
    FLUX2_SIGMA_MIN,
    Callback,
    Denoiser,
    NoiseSampler,
    sample_euler,
    sample_res_2s,
    seeded_noise_sampler,
)
from .host.newer_host import needs_host
from .host.reference_pictures import reference_rows


class Klein9BSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BSampler",
            display_name="Klein 9B Sampler",
            category="Klein 9B",
            description=(
                "Chooses how noise is walked down to a picture: euler, one model call a step, or res_2s, two "
                "calls a step and second order. Connect it to SamplerCustomAdvanced or SamplerCustom."
            ),
            search_aliases=["klein sampler", "flux2 sampler", "euler", "res_2s", "res 2s", "RES4LYF"],
            inputs=[
                io.DynamicCombo.Input(
                    "sampler",
                    options=[
                        io.DynamicCombo.Option("euler", []),
                        io.DynamicCombo.Option("res_2s", _res_2s_inputs()),
                    ],
                    tooltip=(
                        "euler: what the official Klein workflows use, with ComfyUI's own result. res_2s: "
                        "second order at two model calls a step; compare it with euler at twice the steps."
                    ),
                )
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For the sampler input of a sampling node.")],
        )

    @classmethod
    @needs_host()
    def execute(cls, sampler: dict[str, Any]) -> io.NodeOutput:
        import comfy.samplers

        _stop_when_interrupted()  # asked for already here, where this node can say that it is missing
        options = {name: value for name, value in sampler.items() if name != "sampler"}
        return io.NodeOutput(comfy.samplers.KSAMPLER(SAMPLER_FUNCTIONS[sampler["sampler"]], options))


def klein9b_euler(
    model: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """sample_euler that stops when the user interrupts."""
    return sample_euler(_interruptible(model), x, sigmas, extra_args, callback, disable)


def klein9b_res_2s(
    model: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    eta: float = 0.0,
    final_step: str = "sigma_min",
) -> torch.Tensor:
    """sample_res_2s with the loaded model's sigma_min, which stops when the user interrupts."""
    denoise = _interruptible(model)
    sigma_min = _sigma_min(model)
    return sample_res_2s(
        denoise,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler=_noise_of_photographs(model, x, extra_args),
        eta=eta,
        final_step=final_step,
        sigma_min=sigma_min,
    )


SAMPLER_FUNCTIONS = {"euler": klein9b_euler, "res_2s": klein9b_res_2s}


def _res_2s_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "eta",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip=(
                "Share of the noise drawn afresh at every step, from the run's seed. 0: none, a plain and "
                "repeatable path. 0.5: the kind of sampling the RES4LYF pack lists as res_2s."
            ),
        ),
        io.Combo.Input(
            "final_step",
            options=list(FINAL_STEPS),
            default="sigma_min",
            tooltip=(
                "How the last step reaches 0. sigma_min: a full step to the model's smallest sigma, then "
                "straight on, as RES4LYF does. denoise: the model's own prediction, one call instead of two. "
                "extrapolate: a second prediction at half the last sigma, twice that minus the first."
            ),
        ),
    ]


def _stop_when_interrupted() -> Callable[[], None]:
    import comfy.model_management

    return comfy.model_management.throw_exception_if_processing_interrupted


def _interruptible(model: Denoiser) -> Denoiser:
    stop_when_interrupted = _stop_when_interrupted()

    def denoise(x: torch.Tensor, sigma: torch.Tensor, **extra_args: Any) -> torch.Tensor:
        stop_when_interrupted()
        return model(x, sigma, **extra_args)

    return denoise


def _noise_of_photographs(model: Any, x: torch.Tensor, extra_args: dict[str, Any] | None) -> NoiseSampler | None:
    """Where the batch is photographs edited to a picture each: as each would have it alone."""
    seed = (extra_args or {}).get("seed")
    conds = getattr(getattr(model, "inner_model", None), "conds", {})
    if seed is None or reference_rows(conds) == 1:
        return None
    return seeded_noise_sampler(x, seed, alike=True)


def _sigma_min(model: Any) -> float:
    """The sampled model's own, which a patch may have shifted, or FLUX.2's where the model hides it."""
    try:
        return float(model.inner_model.inner_model.model_sampling.sigma_min)
    except AttributeError:
        return FLUX2_SIGMA_MIN
