"""A MODEL whose cfg acts in part of the schedule only; in the rest the host leaves the negative prompt out."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...klein.interval import CfgInterval
from .newer_host import needs_host

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

KEY = "klein9b_cfg_interval"


@needs_host()
def with_cfg_interval(model: ModelPatcher, start: float, end: float) -> ModelPatcher:
    """A clone whose cfg is 1 outside an interval of the schedule; the model itself where that is all of it.

    A second interval on the same model narrows the first. Guiders without one cfg, such as the host's DualCFGGuider,
    stay as they are.

    Args:
        start: fraction of the schedule, the host's sampling percent, from 0.
        end: to 1; where it is start, cfg is 1 in every step.

    Raises:
        ValueError: the two are not numbers from 0 to 1 in order.
    """
    interval = CfgInterval(start, end)
    if interval.whole:
        return model
    import comfy.patcher_extension

    limited, wrappers = model.clone(), LimitedCfg(interval)
    limited.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, wrappers.outer_sample)
    limited.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, KEY, wrappers.predict_noise)
    return limited


class LimitedCfg:
    """The wrappers: around a run, to say where cfg cannot be limited, and around every step's evaluations."""

    def __init__(self, interval: CfgInterval) -> None:
        self.interval = interval

    def outer_sample(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        if mixes_by_itself(guider) and is_one(guider):
            log.warning(
                "Klein 9B: the cfg interval changes nothing in this run: its guider, %s, has no single cfg other "
                "than 1.",
                type(guider).__name__,
            )
        return executor(*args, **kwargs)

    def predict_noise(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
        seed: int | None = None,
    ) -> Tensor:
        guider = executor.class_obj
        if is_one(guider) or self._holds(guider, timestep, model_options):
            return executor(x, timestep, model_options, seed)
        cfg, guider.cfg = guider.cfg, 1.0
        try:
            return executor(x, timestep, model_options, seed)
        finally:
            guider.cfg = cfg

    @needs_host()
    def _holds(self, guider: Any, timestep: Tensor, model_options: dict[str, Any]) -> bool:
        if self.interval.empty:
            return False
        schedule = model_options.get("transformer_options", {}).get("sample_sigmas")
        sigmas = [] if schedule is None else schedule.tolist()
        sigma_at = guider.inner_model.model_sampling.percent_to_sigma
        return self.interval.holds(float(timestep.flatten()[0]), sigmas, sigma_at)


def is_one(guider: Any) -> bool:
    """Whether its cfg is 1, at which the host leaves the negative prompt out."""
    return math.isclose(getattr(guider, "cfg", 1.0), 1.0)


@needs_host()
def mixes_by_itself(guider: Any) -> bool:
    """Whether it is a guider with another formula than cfg."""
    import comfy.samplers

    return type(guider).predict_noise is not comfy.samplers.CFGGuider.predict_noise
