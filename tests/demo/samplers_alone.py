"""euler and res_2s on a denoiser that is known exactly: a Gaussian around each of a few photographs.

For x = (1 - s) x0 + s n and x0 drawn from a mixture with centres c_i and variance t^2, the mean of x0 given x is
a weighted mean of the centres' own posteriors, in closed form.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import standins
from klein9b.klein.samplers import sample_euler, sample_res_2s
from klein9b.klein.schedule import klein_sigmas

from .say import say, table

SIDE = 96
SPREAD = 0.15
CALLS = (4, 8, 16, 32, 64)
SEEDS = 8
REFERENCE_STEPS = 400


def photographs() -> torch.Tensor:
    """(n, 3, SIDE, SIDE) in [-1, 1]."""
    squares = [standins.photograph(name).convert("RGB").resize((SIDE, SIDE)) for name in standins.photographs.FILES]
    return torch.stack([torch.from_numpy(np.asarray(s, np.float64) / 127.5 - 1).permute(2, 0, 1) for s in squares])


class ExactDenoiser:
    """D(x, s) = E[x0 | x], counting its calls."""

    def __init__(self, centres: torch.Tensor) -> None:
        self.centres = centres

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_: object) -> torch.Tensor:
        s = float(sigma.flatten()[0])
        variance = (SPREAD * (1 - s)) ** 2 + s**2
        residual = x[:, None] - (1 - s) * self.centres[None]
        weight = torch.softmax(-residual.square().flatten(2).sum(-1) / (2 * variance), dim=1)
        posterior = self.centres[None] + SPREAD**2 * (1 - s) / variance * residual
        return (weight[..., None, None, None] * posterior).sum(1)


def solve(name: str, model: ExactDenoiser, noise: torch.Tensor, calls: int) -> torch.Tensor:
    if name == "euler":
        return sample_euler(model, noise, klein_sigmas(calls, 4096), disable=True)
    return sample_res_2s(model, noise, klein_sigmas(calls // 2, 4096), disable=True, final_step="extrapolate")


def errors(model: ExactDenoiser, noise: torch.Tensor) -> dict[str, list[float]]:
    """rms distance to a run of many steps, by sampler and number of model calls."""
    say(f"solving once with {REFERENCE_STEPS} steps, to measure the others by")
    exact = sample_res_2s(model, noise, klein_sigmas(REFERENCE_STEPS, 4096), disable=True, final_step="extrapolate")
    found = {}
    for name in ("euler", "res_2s"):
        found[name] = [(solve(name, model, noise, calls) - exact).square().mean().sqrt().item() for calls in CALLS]
        say(f"{name}: done")
    return found


def contact_sheet(model: ExactDenoiser, noise: torch.Tensor) -> Image.Image:
    """Noise on top, then each sampler at 8 model calls."""
    rows = [noise.clamp(-1, 1), solve("euler", model, noise, 8), solve("res_2s", model, noise, 8)]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return Image.fromarray(((sheet.permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())


def plot(found: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, values in found.items():
        axes.loglog(CALLS, values, marker="o", label=name)
    axes.set(xlabel="model calls", ylabel="rms error to the exact path", title="On a mixture of photographs")
    axes.set_xticks(CALLS, [str(calls) for calls in CALLS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def run(output: Path) -> None:
    model = ExactDenoiser(photographs())
    noise = torch.randn(SEEDS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = errors(model, noise)
    contact_sheet(model, noise).save(output / "samplers.png")
    plot(found, output / "convergence.png")
    rows = [(name, str(c), f"{e:.4f}") for name, values in found.items() for c, e in zip(CALLS, values, strict=True)]
    table(("sampler", "model calls", "rms error"), rows)
    say(f"wrote {output / 'samplers.png'} and {output / 'convergence.png'}")
