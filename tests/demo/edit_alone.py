"""The edit of two photographs without ComfyUI, measured by diffusers' own pipelines.

Sizing, schedule, samplers, the reference cache and restoring are the pack's; diffusers runs the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import standins
from klein9b.klein.framing import Fit, Placement, Size, fit_image, place_image, restore_image
from klein9b.klein.latent import LATENT_CHANNELS, latent_tokens
from klein9b.klein.samplers import sample_euler, sample_res_2s
from klein9b.klein.schedule import klein_sigmas
from standins.peers import sample
from standins.transformer import CONTEXT

from .diffusers_klein import ComputedOnce, InContext, Klein, decode, encode
from .say import say, table

PHOTOGRAPHS = ("astronaut", "coffee")
SIDE = 250  # no multiple of 16, so that something is cropped and has to be restored
STEPS = 4
PROMPT_TOKENS = 512
SAMPLERS = {"euler": sample_euler, "res_2s": sample_res_2s}


@dataclass(frozen=True)
class Scene:
    """What ours and diffusers' edit have in common.

    Attributes:
        photographs: image 1 is edited, the others are further references.
        prompt: (1, tokens, 12288), of unit scale as the trained text encoder's normed layers are.
        noise: (1, 128, height / 16, width / 16) of image 1's grid.
    """

    photographs: Sequence[Image.Image]
    placements: Sequence[Placement]
    prompt: Tensor
    noise: Tensor

    @classmethod
    def of(cls, photographs: Sequence[Image.Image]) -> Scene:
        several = len(photographs) > 1
        placements = [place_image(Size(*one.size), Fit.CROP, several=several) for one in photographs]
        draw, grid = torch.Generator().manual_seed(42), placements[0].grid
        prompt = torch.randn(1, PROMPT_TOKENS, CONTEXT, generator=draw)
        noise = torch.randn(1, LATENT_CHANNELS, grid.height // 16, grid.width // 16, generator=draw)
        return cls(photographs, placements, prompt, noise)

    def references(self, klein: Klein) -> list[Tensor]:
        pairs = zip(self.photographs, self.placements, strict=True)
        return [encode(klein.pipeline, fit_image(_pixels(one), placement)) for one, placement in pairs]

    def picture(self, klein: Klein, latent: Tensor) -> Image.Image:
        """At the pixel size and in the framing of image 1."""
        restored = restore_image(decode(klein.pipeline, latent), _pixels(self.photographs[0]), self.placements[0])
        return Image.fromarray(np.rint(restored * 255).astype(np.uint8))


def run(output: Path, *, side: int = SIDE) -> None:
    say("editing two photographs by stand-in weights: Klein's real tensor names at small dims, random numbers")
    scene = Scene.of([standins.photograph(name, longest_side=side) for name in PHOTOGRAPHS])
    for i, placement in enumerate(scene.placements):
        say(f"image {i + 1}: {placement.original}, fitted to {placement.grid}")
    with torch.inference_mode():
        rows = [*_rows(scene, InContext(), "edit two images", ("euler",), output)]
        rows += _rows(scene, ComputedOnce(), "KV edit two images", ("euler", "res_2s"), output)
    table(("edit", "references", "sampler", "steps", "size", "distance", "file"), rows)
    say(
        "the distance is that of the final latents, relative, to diffusers' own pipeline on the same weights, prompt"
        " embeddings, photographs and noise; it has no res_2s"
    )
    say("the weights are random, so the pictures are texture, within the photograph's edge that fitting had cropped")


def _rows(scene: Scene, klein: Klein, name: str, samplers: Sequence[str], output: Path) -> Iterator[tuple[str, ...]]:
    references = scene.references(klein)
    for sampler in samplers:
        say(f"running {name} with {sampler}")
        latent, when = edit(klein, scene, references, sampler)
        far = f"{distance(latent, by_diffusers(klein, scene)):.1e}" if sampler == "euler" else "-"
        picture = scene.picture(klein, latent)
        target = output / f"{name} {sampler}.png"
        picture.save(target)
        yield name, when, sampler, str(STEPS), f"{picture.width}x{picture.height}", far, os.path.relpath(target)


def edit(klein: Klein, scene: Scene, references: Sequence[Tensor], sampler: str = "euler") -> tuple[Tensor, str]:
    """Final latents, and when the references were computed."""
    denoiser, when = klein.denoiser(scene.prompt, references)
    sigmas = klein_sigmas(STEPS, latent_tokens(scene.noise.shape))
    return SAMPLERS[sampler](denoiser, scene.noise, sigmas, disable=True), when


def by_diffusers(klein: Klein, scene: Scene) -> Tensor:
    images = list(scene.photographs)
    return sample(klein.pipeline, prompt_embeds=scene.prompt, noise=scene.noise, images=images, steps=STEPS)


def distance(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


def _pixels(photograph: Image.Image) -> np.ndarray:
    return np.asarray(photograph.convert("RGB"), np.float32) / 255
