"""Euler and res_2s for flow matching, in the k-diffusion signature.

A model is ``model(x, sigma, **extra_args) -> denoised``: x and denoised are [batch, channels, ...], sigma
is [batch], and denoised is the prediction of x at sigma 0 with guidance and masks already applied. On the
flow-matching path x = (1 - sigma) x0 + sigma noise the ODE is dx/dsigma = (x - denoised) / sigma, which in
lambda = -log(sigma) reads dx/dlambda = -x + denoised: linear in x, regular at sigma 1, and solved exactly
by an exponential integrator wherever denoised is constant (RES: arXiv 2308.02157; Hochbruck and Ostermann,
"Exponential integrators", Acta Numerica 2010).

Schedules may start below 1 (img2img), end above 0 (split sampling) and repeat a sigma (a step of no length
evaluates nothing). Coefficients are Python floats; the sigmas cross to the CPU once, before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import trange

Denoiser = Callable[..., torch.Tensor]
Callback = Callable[[dict[str, Any]], None]
NoiseSampler = Callable[[float, float], torch.Tensor]
Step = Callable[[torch.Tensor, float, float], tuple[torch.Tensor, torch.Tensor]]

FINAL_STEPS = ("sigma_min", "denoise", "extrapolate")

# Shift 2.02 at timestep 1/10000, as the float32 value ComfyUI's FLUX.2 model reports.
FLUX2_SIGMA_MIN = 7.533399038948119e-04

# RES4LYF takes a schedule that comes this close to sigma_min as already there.
SIGMA_MIN_MARGIN = 1e-4

# Noise replaces at most this share of sigma, so that eta 1 keeps a direction.
MAX_ETA = 0.9999

# Where RES4LYF re-anchors a step's start after noising its midpoint: short steps well above the end.
ANCHOR_BELOW_H = 0.5
ANCHOR_ABOVE_SIGMA = 0.03

# Float32 schedules may miss 1 by a unit in the last place.
ROUNDING = 1e-6

_SERIES_BELOW = 0.1
_SERIES_TERMS = 12


@torch.no_grad()
def sample_euler(
    model: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """First order: x_next = x + (x - denoised) / sigma * (sigma_next - sigma), one evaluation per step.

    The operations and their order are those of k-diffusion's sample_euler (Karras et al. 2022, algorithm 2
    without churn), so float32 results are the same bits. The step to sigma 0 returns denoised itself, which
    is what the formula means there without its rounding.
    """
    extra_args = {} if extra_args is None else extra_args

    def step(x: torch.Tensor, sigma: float, sigma_next: float) -> tuple[torch.Tensor, torch.Tensor]:
        sigma_in = _per_sample(x, sigma)
        denoised = model(x, sigma_in, **extra_args)
        if sigma_next == 0:
            return denoised, denoised
        # A tensor divisor: CUDA turns a division by a Python float into a product with its reciprocal.
        d = (x - denoised) / sigma_in.view(-1, *[1] * (x.ndim - 1))
        return x + d * (sigma_next - sigma), denoised

    return _integrate(step, x, sigmas, _read_sigmas(sigmas), callback, disable)


@torch.no_grad()
def sample_res_2s(
    model: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    eta: float = 0.0,
    final_step: str = "sigma_min",
    sigma_min: float = FLUX2_SIGMA_MIN,
    noise_sampler: NoiseSampler | None = None,
) -> torch.Tensor:
    """Second order: the two-stage exponential Runge-Kutta method with c2 = 1/2, two evaluations per step.

    With h = log(sigma / sigma_next) and rho = exp(-h):

        sigma_mid = sqrt(sigma sigma_next)
        x_mid     = sigma_mid / sigma x + (1 - sigma_mid / sigma) denoised
        x_next    = rho x + (1 - rho) denoised + 2 h phi_2(-h) (denoised_mid - denoised)

    final_step: how the step to sigma 0, where h is infinite, ends.
        "sigma_min": a step to sigma_min, then its straight line on to 0, as RES4LYF 1.1 does. A last sigma
            below sigma_min + 1e-4 leaves no room for that step and takes "denoise".
        "denoise": denoised, one evaluation.
        "extrapolate": 2 denoised(sigma / 2) - denoised(sigma), second order in the last sigma.
    sigma_min: smallest sigma the model was trained on; only final_step "sigma_min" reads it.
    eta: 0 solves the ODE. Above 0, that share of each new sigma is fresh noise, at the midpoint as at the end
        of the step; RES4LYF's listed "res_2s" is eta 0.5. Nothing is added on arriving at sigma 0, where
        RES4LYF 1.1 leaves noise of eta sigma_min in the picture. Flow matching only.
    noise_sampler: (sigma, sigma_next) -> unit noise shaped like x; by default seeded_noise_sampler of
        extra_args["seed"].

    Raises ValueError, in a sentence, for a schedule or option that has no meaning.
    """
    extra_args = {} if extra_args is None else extra_args
    _check_options(eta, final_step, sigma_min)
    schedule = _read_sigmas(sigmas)
    noise = _ancestral_noise(x, schedule, eta, extra_args.get("seed"), noise_sampler)

    def step(x: torch.Tensor, sigma: float, sigma_next: float) -> tuple[torch.Tensor, torch.Tensor]:
        c = res_2s_coefficients(sigma, sigma_next, final_step, sigma_min)
        denoised = model(x, _per_sample(x, sigma), **extra_args)
        if c.sigma_mid is None:
            return denoised, denoised
        x_mid = _towards(denoised, x, c.sigma_mid / sigma)
        if noise is not None and (sigma_next > 0 or final_step == "sigma_min"):
            x, x_mid = noise.at_midpoint(x, denoised, sigma, c.sigma_mid, c.rho)
        denoised_mid = model(x_mid, _per_sample(x, c.sigma_mid), **extra_args)
        x_next = _towards(denoised, x, c.rho) + c.weight * (denoised_mid - denoised)
        if sigma_next == 0:
            return x_next, x_next
        return x_next if noise is None else noise.at_end(x, x_next, sigma, sigma_next), denoised_mid

    return _integrate(step, x, sigmas, schedule, callback, disable)


@dataclass(frozen=True)
class Res2sCoefficients:
    """x_next = rho x + (1 - rho) denoised + weight (denoised_mid - denoised); without sigma_mid, denoised."""

    sigma_mid: float | None
    rho: float
    weight: float


def res_2s_coefficients(sigma: float, sigma_next: float, final_step: str, sigma_min: float) -> Res2sCoefficients:
    """The numbers of one res_2s step; a step to 0 has rho 0, so x itself drops out of it."""
    if sigma_next > 0:
        h = math.log(sigma / sigma_next)
        return Res2sCoefficients(math.sqrt(sigma * sigma_next), sigma_next / sigma, 2 * h * phi_2(-h))
    if final_step == "extrapolate":
        return Res2sCoefficients(sigma / 2, 0.0, 2.0)
    if final_step == "denoise" or sigma - sigma_min <= SIGMA_MIN_MARGIN:
        return Res2sCoefficients(None, 0.0, 0.0)
    # The line through (sigma, x) and (sigma_min, x_next) meets 0 where x cancels.
    h = math.log(sigma / sigma_min)
    return Res2sCoefficients(math.sqrt(sigma * sigma_min), 0.0, 2 * phi_2(-h) / phi_1(-h))


def phi_1(z: float) -> float:
    """(exp(z) - 1) / z, and its limit 1 at 0."""
    return math.expm1(z) / z if z else 1.0


def phi_2(z: float) -> float:
    """(exp(z) - 1 - z) / z^2; near 0, where that cancels, its series sum of z^k / (k + 2)!."""
    if abs(z) > _SERIES_BELOW:
        return (phi_1(z) - 1) / z
    return sum(z**k / math.factorial(k + 2) for k in range(_SERIES_TERMS))


def seeded_noise_sampler(x: torch.Tensor, seed: int, *, alike: bool = False) -> NoiseSampler:
    """Unit noise shaped like x [batch, channels, ...], each sample from its own generator.

    Sample b reads a CPU generator seeded with seed + 1 + b, so its noise depends neither on the batch
    around it nor on the device, and never repeats the run's starting noise, which the host draws from seed.
    Each channel is brought to mean 0 and std 1, as in RES4LYF. The stream is not RES4LYF's, which draws the
    whole batch in float64 on the latent's device from one generator for steps (seed + 1) and one for
    midpoints (9999 in every run): the two agree in distribution, not picture by picture.
    alike: every sample has the noise of the first, which is what it would have alone.
    """
    generators = [torch.Generator("cpu").manual_seed((seed + 1 + b * (not alike)) % 2**64) for b in range(x.shape[0])]

    def noise(sigma: float, sigma_next: float) -> torch.Tensor:
        drawn = torch.stack([_standardised(torch.randn(x.shape[1:], generator=g)) for g in generators])
        # From pageable memory this neither waits for the GPU nor leaves the buffer in use.
        return drawn.to(x.device, x.dtype, non_blocking=x.device.type == "cuda")

    return noise


@dataclass(frozen=True)
class _AncestralNoise:
    """The SDE's exchange of old noise for new in flow matching, where the signal's share is 1 - sigma."""

    eta: float
    sampler: NoiseSampler

    def at_midpoint(
        self, x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_mid: float, rho: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The start of the step and its noised midpoint; a short step's start moves to fit the midpoint.

        That move is the fixed point of RES4LYF's "bongmath" iteration in closed form: start, midpoint and
        denoised come to lie on one line.
        """
        x_mid = self._renew(denoised, (x - denoised) / sigma, sigma, sigma_mid)
        if sigma > ANCHOR_ABOVE_SIGMA and rho > math.exp(-ANCHOR_BELOW_H):
            x = denoised + (sigma / sigma_mid) * (x_mid - denoised)
        return x, x_mid

    def at_end(self, x: torch.Tensor, x_next: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """The noised end of a step, on the line from x through x_next."""
        d = (x - x_next) / (sigma - sigma_next)
        return self._renew(x - sigma * d, d, sigma, sigma_next)

    def _renew(self, denoised: torch.Tensor, d: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
        """x at sigma_next on the line denoised + sigma d, the share eta of its noise drawn afresh."""
        sigma_up = min(self.eta, MAX_ETA) * sigma_next
        kept = math.sqrt(sigma_next**2 - sigma_up**2)
        alpha = (1 - sigma_next) + kept
        return alpha * denoised + kept * d + sigma_up * self.sampler(sigma, sigma_next)


def _ancestral_noise(
    x: torch.Tensor, schedule: list[float], eta: float, seed: int | None, noise_sampler: NoiseSampler | None
) -> _AncestralNoise | None:
    if eta == 0:
        return None
    if max(schedule, default=0.0) > 1 + ROUNDING:
        raise ValueError(
            f"eta is {eta} and the schedule starts at sigma {max(schedule)}, but eta above 0 is defined for "
            "flow-matching models, whose sigmas never exceed 1: set eta to 0 for this model."
        )
    if noise_sampler is not None:
        return _AncestralNoise(eta, noise_sampler)
    if seed is None:
        raise ValueError("eta above 0 draws noise: pass a seed in extra_args or a noise_sampler.")
    return _AncestralNoise(eta, seeded_noise_sampler(x, seed))


def _integrate(
    step: Step,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    schedule: list[float],
    callback: Callback | None,
    disable: bool | None,
) -> torch.Tensor:
    """Takes every step in order and reports each once; a run to sigma 0 reports its result as denoised."""
    denoised = x
    for i in trange(max(len(schedule) - 1, 0), disable=disable):
        x_next = x
        if schedule[i + 1] != schedule[i]:
            x_next, denoised = step(x, schedule[i], schedule[i + 1])
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x_next
    return x


def _read_sigmas(sigmas: torch.Tensor) -> list[float]:
    values = [float(sigma) for sigma in sigmas.tolist()]
    for i, sigma in enumerate(values):
        if not (math.isfinite(sigma) and (sigma > 0 or not any(values[i:]))):
            raise ValueError(
                f"Sigma {i} of the schedule is {sigma}, but every sigma before the final 0 must be above 0: "
                "check the nodes that cut or join the sigmas."
            )
    return values


def _check_options(eta: float, final_step: str, sigma_min: float) -> None:
    if final_step not in FINAL_STEPS:
        raise ValueError(f"final_step is {final_step!r}, but must be one of {', '.join(FINAL_STEPS)}.")
    if not eta >= 0:
        raise ValueError(f"eta is {eta}, but must be 0 (deterministic) or above.")
    if not sigma_min > 0:
        raise ValueError(f"sigma_min is {sigma_min}, but must be above 0.")


def _per_sample(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x.new_full((x.shape[0],), sigma)


def _towards(denoised: torch.Tensor, x: torch.Tensor, ratio: float) -> torch.Tensor:
    """x after its noise shrinks to ratio of what it was: an exact step wherever denoised is constant."""
    return ratio * x + (1 - ratio) * denoised


def _standardised(noise: torch.Tensor) -> torch.Tensor:
    """Mean 0 and std 1 in each channel of one sample [channels, ...]; single values stay as drawn."""
    if noise.ndim < 2 or noise[0].numel() < 2:
        return noise
    std, mean = torch.std_mean(noise, dim=tuple(range(1, noise.ndim)), keepdim=True)
    return (noise - mean) / std
