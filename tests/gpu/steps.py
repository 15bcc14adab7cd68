"""Runs of the host's guider whose every step is timed, and nothing around them."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .cells import CFG, TIMED_STEPS, Cell
from .scale import CHANNELS, Scale
from .timing import Clock, Visit, clock_for


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TimedEuler:
    """A sampler function of the host's: euler, a mark of the clock after every step.

    Args:
        around: entered for the steps alone.
    """

    def __init__(self, clock: Clock, around: Any = None) -> None:
        self.clock = clock
        self.around = around or contextlib.nullcontext()

    def __call__(
        self, model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Tensor:
        ones = x.new_ones(x.shape[0])
        self.clock.begin()
        with self.around:
            for sigma, following in pairwise(sigmas):
                denoised = model(x, sigma * ones, **(extra_args or {}))
                x = x + (x - denoised) / sigma * (following - sigma)
                self.clock.lap()
        return x


class Runs:
    """The scene of one cell, drawn once: noise, prompts and references.

    Attributes:
        last: the latents that the latest run ended with.
    """

    def __init__(self, scale: Scale, side: int, references: int, mode: str, device: torch.device) -> None:
        grid, lent = scale.grid(side), scale.grid(scale.sides[0])
        self.device = device
        self.mode = mode
        self.noise = normal(1, CHANNELS, grid, grid, seed=99)
        self.prompts = [normal(1, scale.text, scale.context, seed=seed) for seed in (1, 2)]
        self.references = [normal(1, CHANNELS, lent, lent, seed=10 + i) for i in range(references)]
        self.last: Tensor | None = None

    def visit(self, model: Any, steps: int | None = None, around: Any = None) -> Visit:
        """One run by this MODEL; around: as of `TimedEuler`."""
        import comfy.samplers
        from comfy_extras.nodes_flux import get_schedule

        clock = clock_for(self.device)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*(self._conditioning(one) for one in self.prompts))
        guider.set_cfg(CFG[self.mode])
        sampler = comfy.samplers.KSAMPLER(TimedEuler(clock, around))
        tokens = self.noise.shape[2] * self.noise.shape[3]
        sigmas = get_schedule(TIMED_STEPS[self.mode] if steps is None else steps, tokens)
        with torch.inference_mode():
            empty = torch.zeros_like(self.noise)
            self.last = guider.sample(self.noise, empty, sampler, sigmas, disable_pbar=True, seed=0)
        return Visit(clock.seconds(), clock.peak())

    def _conditioning(self, prompt: Tensor) -> list[list[Any]]:
        return [[prompt, {"reference_latents": self.references} if self.references else {}]]


def runs_of(cell: Cell, scale: Scale, device: torch.device) -> Runs:
    return Runs(scale, cell.side, cell.references, cell.mode, device)
