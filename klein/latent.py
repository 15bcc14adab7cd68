"""FLUX.2's latent: 128 channels, and one token for each of its cells."""

from __future__ import annotations

from collections.abc import Sequence

LATENT_CHANNELS = 128


def latent_tokens(shape: Sequence[int]) -> int:
    """Tokens of a FLUX.2 latent [batch, 128, height / 16, width / 16].

    Raises:
        ValueError: the shape is another model's.
    """
    if len(shape) != 4 or shape[1] != LATENT_CHANNELS:
        raise ValueError(
            f"This latent is {list(shape)}, but FLUX.2 works on [batch, 128, height / 16, width / 16]: "
            "connect the latent of Klein 9B References, of Empty Flux 2 Latent, or an image encoded with the "
            "FLUX.2 VAE."
        )
    return shape[2] * shape[3]
