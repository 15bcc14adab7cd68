"""Attention settings on CONDITIONING as one of the host's controls: like a ControlNet, they act where it is sampled.

A control is asked before every evaluation and is given the transformer_options of that evaluation, which is where
`attention_parts` puts what attends by parts. So no MODEL is patched, and every sampler and guider takes part.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import Tensor

from ...klein.influence import AttentionSettings, Influence
from .attention_parts import act_on, reached_for
from .evaluation import is_compiled

_CONTROL = "control"
_SPREADS = "control_apply_to_uncond"
COMPILED = (
    "The model is compiled, and compiled code keeps the attention it was made with, so the strengths, regions or "
    "negative prompt of this conditioning cannot act. Take out the node that compiles the model, or the ones that set "
    "them."
)


def with_settings(settings: AttentionSettings, *conditionings: list) -> list[list]:
    """The same conditionings with the settings joined to what is set already; later ones win.

    Those that shared a control still do: the host evaluates them in one batch only then. Where nothing is set they are
    what they were.
    """
    if settings.empty:
        return list(conditionings)
    reached_for()
    made: dict[Any, Any] = {}
    everywhere = _for_the_negative_too(conditionings)
    return [
        [
            [embeds, _joined(beside, settings, made, None if _has_control(each) else everywhere)]
            for embeds, beside in each
        ]
        for each in conditionings
    ]


def _for_the_negative_too(conditionings: Sequence[list]) -> Any:
    """A ControlNet that the host would hang onto a conditioning that has none, as ours is not none."""
    every = (beside for each in conditionings for _, beside in each)
    return next((beside.get(_CONTROL) for beside in every if beside.get(_SPREADS)), None)


def _has_control(conditioning: list) -> bool:
    return any(beside.get(_CONTROL) is not None for _, beside in conditioning)


def with_influence(number: int, influence: Influence, *conditionings: list) -> list[list]:
    """The same conditionings, with the influence of reference `number`, from 1."""
    return with_settings(AttentionSettings({number: influence}), *conditionings)


def _joined(
    beside: dict[str, Any], settings: AttentionSettings, made: dict[Any, Any], everywhere: Any
) -> dict[str, Any]:
    before = beside.get(_CONTROL) or everywhere
    if before not in made:
        made[before] = _control_kind()(settings).set_previous_controlnet(before)
    return {**beside, _CONTROL: made[before]}


@cache
def _control_kind() -> Any:
    """Made when it is first needed, as its base is the host's."""
    import comfy.controlnet

    class AttentionControl(comfy.controlnet.ControlBase):
        """Adds nothing to the model's activations; hands an earlier control's on."""

        def __init__(self, settings: AttentionSettings) -> None:
            super().__init__()
            self.settings = settings
            self._sigma_at: Callable[[float], float] = float
            self._model: Callable[[], Any] = lambda: None
            self._said: set[str] = set()

        def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
            super().pre_run(model, percent_to_timestep_function)
            self._sigma_at = percent_to_timestep_function
            self._model = weakref.ref(model)  # Conditioning outlives models.
            self._said.clear()

        def get_control(
            self,
            x_noisy: Tensor,
            t: Tensor,
            cond: dict[str, Any],
            batched_number: int,
            transformer_options: dict[str, Any],
        ) -> Any:
            before = self.previous_controlnet
            control = before and before.get_control(x_noisy, t, cond, batched_number, transformer_options)
            if is_compiled(self._model(), transformer_options):
                raise ValueError(COMPILED)
            act_on(transformer_options, self.settings, x_noisy, cond, self._sigma_at, self._said)
            return control

        def copy(self) -> Any:
            made = type(self)(self.settings)
            self.copy_to(made)
            return made

        def deepclone_multigpu(self, load_device: Any, autoregister: bool = False) -> Any:
            clone = self.copy()
            if autoregister:
                self.multigpu_clones[load_device] = clone
            return clone

    return AttentionControl


def is_only_settings(control: Any) -> bool:
    """Whether a conditioning's controls, of which there may be none, are all of ours."""
    while control is not None and isinstance(control, _control_kind()):
        control = control.previous_controlnet
    return control is None


def settings_on(conditioning: list) -> Sequence[AttentionSettings]:
    """All that is set on a conditioning, the earliest first."""
    found, control = [], next((beside.get(_CONTROL) for _, beside in conditioning), None)
    while control is not None:
        found += [control.settings] if isinstance(control, _control_kind()) else []
        control = control.previous_controlnet
    return found[::-1]
