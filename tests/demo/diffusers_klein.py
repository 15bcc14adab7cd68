"""Klein's two ways with references, with diffusers' transformer and VAE in the place of ComfyUI's.

Both make denoisers as klein/samplers.py takes them. ComputedOnce has its references from our own reference pass.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

import standins
from klein9b.kernels.eager.append_kv import KeyValue
from klein9b.klein.kv_cache import PositionedReference, ReferenceRun
from klein9b.klein.kv_pass import reference_keys_values
from klein9b.klein.kv_store import Entry, ReferenceStore, Storage
from klein9b.klein.latent import latent_tokens
from standins.peers import klein_pipeline
from standins.plain_klein import FUNCTIONS, klein

Denoiser = Callable[[Tensor, Tensor], Tensor]

BETWEEN_IMAGES = 10  # on the first axis of positions, where the picture itself lies at 0


class InContext:
    """References in the picture's own sequence, in every step: how the distilled and the base model read them."""

    weights = "flux-2-klein-9b.safetensors"

    def __init__(self) -> None:
        self.pipeline = klein_pipeline(_weights(self.weights), standins.vae())

    def denoiser(self, prompt: Tensor, latents: Sequence[Tensor]) -> tuple[Denoiser, str]:
        """For a prompt (1, tokens, 12288) and references (1, 128, height, width); and when it computes those."""
        references = [_reference(latent, i) for i, latent in enumerate(latents)]
        return _denoiser(self.pipeline.transformer, prompt, references), "in every step"


class ComputedOnce:
    """Keys and values of references from our reference pass and store: how klein-9b-kv was trained to read them."""

    weights = "flux-2-klein-9b-kv-fp8.safetensors"

    def __init__(self) -> None:
        weights = _weights(self.weights)
        self.pipeline = klein_pipeline(weights, standins.vae(), kv=True)
        self.modules = klein(weights)
        self.store = ReferenceStore(torch.device("cpu"))

    def denoiser(self, prompt: Tensor, latents: Sequence[Tensor]) -> tuple[Denoiser, str]:
        """As InContext's."""
        run = ReferenceRun(self.store, Storage.MODEL)
        entry = run.entry(latents, self.weights, _reference, self._compute)
        denoiser = _denoiser(
            self.pipeline.transformer, prompt, kv_cache=self._for_diffusers(entry), kv_cache_mode="cached"
        )
        return denoiser, "found again" if run.report.hits else "computed once"

    def _compute(self, tokens: Tensor, ids: Tensor) -> Iterator[KeyValue]:
        return reference_keys_values(self.modules, tokens, ids, FUNCTIONS)

    def _for_diffusers(self, entry: Entry):
        """The same numbers in diffusers' container, where tokens come before heads."""
        from diffusers.models.transformers.transformer_flux2 import Flux2KVCache

        cache = Flux2KVCache(len(self.modules.double_blocks), len(self.modules.single_blocks))
        for i, layer in enumerate([*cache.double_block_caches, *cache.single_block_caches]):
            layer.store(*(tensor.transpose(1, 2) for tensor in self.store.read(entry, i)))
        return cache


Klein = InContext | ComputedOnce


def encode(pipeline, pixels: np.ndarray) -> Tensor:
    """(height, width, 3) in [0, 1] -> (1, 128, height / 16, width / 16)."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] * 2 - 1
    return pipeline._encode_vae_image(image=image, generator=None)


def decode(pipeline, latent: Tensor) -> np.ndarray:
    """The way back."""
    vae = pipeline.vae
    mean, variance = (statistic.view(1, -1, 1, 1) for statistic in (vae.bn.running_mean, vae.bn.running_var))
    latent = latent * torch.sqrt(variance + vae.config.batch_norm_eps) + mean
    (image,) = vae.decode(pipeline._unpatchify_latents(latent)).sample
    return (image.permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()


def _weights(file: str) -> dict[str, Tensor]:
    return standins.transformer(seed=standins.CHECKPOINTS[file])


def _reference(latent: Tensor, index: int) -> PositionedReference:
    return _positioned(latent, BETWEEN_IMAGES * (index + 1))


def _positioned(latent: Tensor, image: int) -> PositionedReference:
    height, width = latent.shape[2:]
    return PositionedReference(latent.flatten(2).transpose(1, 2), _positions(image, height, width, 1))


def _positions(image: int, height: int, width: int, words: int) -> Tensor:
    """(1, height * width * words, 4): words lie along the last axis, pixels along the two before it."""
    return torch.cartesian_prod(torch.tensor([image]), *(torch.arange(n) for n in (height, width, words)))[None]


def _denoiser(transformer, prompt: Tensor, references: Sequence[PositionedReference] = (), **kept) -> Denoiser:
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        images = [_positioned(x, 0), *references]
        tokens, *_ = transformer(
            hidden_states=torch.cat([one.tokens for one in images], dim=1),
            img_ids=torch.cat([one.ids for one in images], dim=1),
            encoder_hidden_states=prompt,
            txt_ids=_positions(0, 1, 1, prompt.shape[1]),
            timestep=sigma,
            return_dict=False,
            **kept,
        )
        velocity = tokens[:, : latent_tokens(x.shape)].transpose(1, 2).unflatten(2, x.shape[2:])
        return x - sigma * velocity

    return denoise
