"""Whether a run's steps and cfg are those that its weights were trained for, or another Klein 9B's."""

from __future__ import annotations

from .variant import Variant

# distilled and kv: 4 steps at cfg 1. base: 20 or more at cfg 5 (the model cards, and ComfyUI's own workflows).
_CFG_OF_BASE = 3.0
_STEPS_OF_DISTILLED = 8
_CFG_OF_DISTILLED = 2.0


def mistaken_settings(variant: Variant, steps: int, cfg: float) -> str:
    """What does not go together and what to do, in sentences; empty where nothing is certainly mistaken."""
    run = f"this run has {steps} step{'s' * (steps != 1)} at cfg {cfg:g}"
    if variant.name != "base" and cfg >= _CFG_OF_BASE:
        held = f"{'taken for' if variant.assumed else 'the'} {variant.name}" + " ones" * (not variant.assumed)
        other = "choose variant base if they are" if variant.assumed else "load a base file"
        return f"these weights are {held}, made for 4 steps at cfg 1; {run}. Set those, or {other}."
    if variant.name == "base" and steps <= _STEPS_OF_DISTILLED and cfg < _CFG_OF_DISTILLED:
        return (
            f"these weights are the base model, made for 20 steps or more at cfg 5; {run}. Set those, or load a "
            "distilled file. A LoRA made for few steps may be meant to run so."
        )
    return ""
