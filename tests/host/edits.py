"""Edits by stand-in weights in the real host, inside the test process."""

from __future__ import annotations

import functools

import torch

import standins
from standins.quantised import quantised
from standins.transformer import CONTEXT

KV_SEED = 11


@functools.cache
def _weights(seed: int, hidden: int, blocks: int):
    return standins.transformer(seed=seed, hidden=hidden, double_blocks=blocks, single_blocks=blocks)


def klein_model(
    seed: int = KV_SEED,
    *,
    hidden: int = 256,
    blocks: int = 2,
    quantised_as: str | None = None,
    input_scale: float | None = None,
):
    """A MODEL of its own, float32, or its blocks in one of the host's quantised formats.

    Args:
        blocks: so many double and so many single ones.
        input_scale: of the activations of quantised layers, where the file is to give one.
    """
    import comfy.sd

    weights = dict(_weights(seed, hidden, blocks))
    if quantised_as is None:
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    with torch.inference_mode():  # as the host loads in a graph; it cannot move such weights in here otherwise
        weights = quantised(weights, quantised_as, input_scale=input_scale)
        return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})


def normal(*shape: int, seed: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def prompt(seed: int = 1, tokens: int = 512):
    return normal(1, tokens, CONTEXT, seed=seed)


def reference(seed: int, height: int = 6, width: int = 5):
    return normal(1, 128, height, width, seed=1000 + seed)


def conditioning(embeds, references, **extra):
    return [[embeds, {"reference_latents": list(references), **extra} if references else dict(extra)]]


def edit(
    model,
    references=(),
    *,
    embeds=None,
    negative=None,
    negative_references=None,
    noise=None,
    latent=None,
    mask=None,
    cfg=1.0,
    steps=2,
    sampler="euler",
    extra=None,
    settings=None,
    tokens=None,
):
    """Final latents of a run through the host's CFGGuider, as SamplerCustomAdvanced runs it.

    Args:
        settings: of attention, on the positive and the negative.
        tokens: that the schedule is made for, where they are not the picture's.
    """
    import comfy.samplers
    from comfy_extras.nodes_flux import get_schedule

    noise = normal(1, 128, 4, 7, seed=3) if noise is None else noise
    embeds = prompt() if embeds is None else embeds
    guider = comfy.samplers.CFGGuider(model)
    other = references if negative_references is None else negative_references
    conds = (
        conditioning(embeds, references, **(extra or {})),
        conditioning(prompt(2) if negative is None else negative, other, **(extra or {})),
    )
    guider.set_conds(*(conds if settings is None else with_settings(settings, *conds)))
    guider.set_cfg(cfg)
    with torch.inference_mode():
        return guider.sample(
            noise,
            torch.zeros_like(noise) if latent is None else latent,
            comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler,
            get_schedule(steps, tokens or noise.shape[2] * noise.shape[3]),
            denoise_mask=mask,
            disable_pbar=True,
            seed=0,
        )


def with_settings(settings, *conditionings):
    from klein9b.nodes.host import attention_settings

    return attention_settings.with_settings(settings, *conditionings)


def cached(model, **settings):
    """The model behind Klein 9B Reference Cache, and the lines it showed."""
    from klein9b.klein.kv_store import Storage
    from klein9b.nodes.host.cache_run import Settings
    from klein9b.nodes.reference_cache import with_cached_references

    shown = []
    chosen = {"storage": Storage.MODEL, "budget": 2**40, "approximate": ""} | settings
    return with_cached_references(model, Settings(show=shown.append, **chosen)), shown


def store_of(model):
    """Where the cache keeps a model's references."""
    from klein9b.nodes.host.cache_memory import memories

    return memories.of(model).store


def forget(model):
    """Drops all that the cache holds for a model, as a run with a budget of 0 does when it starts."""
    store_of(model).begin_run(0, 0, 0)


def relative(got, wanted) -> float:
    return float((got - wanted).norm() / wanted.norm())
