"""FLUX.2's noise schedule: sigmas from the number of steps and of latent tokens.

Timesteps t run evenly from 1 to 0 and are shifted towards the noisy end by mu:
sigma = exp(mu) / (exp(mu) + 1/t - 1). BFL fitted mu to the number of tokens and steps
(black-forest-labs/flux2, src/flux2/sampling.py, compute_empirical_mu).
"""

from __future__ import annotations

import math

import torch

SHIFTS = ("flux2", "fixed", "smooth")

# The constant shift ComfyUI gives FLUX.2 in every scheduler but Flux2Scheduler.
FIXED_MU = 2.02

# BFL's two fitted lines, mu = slope * tokens + intercept, at 10 and at 200 steps.
_SLOPE_10, _INTERCEPT_10 = 8.73809524e-05, 1.89833333
_SLOPE_200, _INTERCEPT_200 = 0.00016927, 0.45666666

# Above this many tokens (1.05 times 1024x1024 pixels) BFL's code uses the line of 200 steps for any number of steps.
JUMP_TOKENS = 4300


def klein_sigmas(
    steps: int, tokens: int, denoise: float = 1.0, shift: str = "flux2", mu: float = FIXED_MU
) -> torch.Tensor:
    """Sigmas [steps + 1] from 1 (or the float32 below it) to 0, float32 on the CPU.

    shift: "flux2" is BFL's mu, "smooth" the same without its jump at 4300 tokens, "fixed" the given mu.
    denoise: below 1, the last ``steps`` steps of a schedule of int(steps / denoise), as in ComfyUI's own
        schedulers; at 0 there is nothing to sample and the result is empty.
    """
    if denoise <= 0:
        return torch.empty(0)
    total = int(steps / denoise) if denoise < 1 else steps
    return shifted_sigmas(total, _mu(total, tokens, shift, mu))[-(steps + 1) :]


def empirical_mu(tokens: int, steps: int) -> float:
    """BFL's mu: linear in steps through the lines of 10 and 200 steps; above 4300 tokens the latter alone."""
    mu_200 = _SLOPE_200 * tokens + _INTERCEPT_200
    if tokens > JUMP_TOKENS:
        return mu_200
    mu_10 = _SLOPE_10 * tokens + _INTERCEPT_10
    slope = (mu_200 - mu_10) / 190.0
    return slope * steps + (mu_200 - 200.0 * slope)


def smooth_mu(tokens: int, steps: int) -> float:
    """BFL's mu, held at its value of 4300 tokens until BFL's own line for larger images has risen to it.

    A larger image must not get less noise than a smaller one at the same step, so mu must not fall as
    tokens grow, and of the continuous curves that obey, this is the lowest that agrees with BFL on both
    sides: it departs only between the jump and the crossing (10940 tokens, 2.67 times 1024x1024, at 4 steps),
    where it repeats a value BFL uses for that number of steps. Steps count up to 200, the end of BFL's fit.
    """
    level = empirical_mu(min(tokens, JUMP_TOKENS), min(steps, 200))
    return max(level, empirical_mu(tokens, 200))


def shifted_sigmas(steps: int, mu: float) -> torch.Tensor:
    """Sigmas [steps + 1] from 1 to 0 at shift mu, float32 on the CPU, in the operations of Flux2Scheduler."""
    t = torch.linspace(1, 0, steps + 1)
    # At t = 0, 1/t is infinite and sigma exactly 0.
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))


def _mu(steps: int, tokens: int, shift: str, mu: float) -> float:
    if shift == "flux2":
        return empirical_mu(tokens, steps)
    if shift == "smooth":
        return smooth_mu(tokens, steps)
    if shift == "fixed":
        return mu
    raise ValueError(f"shift is {shift!r}, but must be one of {', '.join(SHIFTS)}.")
