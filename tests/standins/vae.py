"""The FLUX.2 autoencoder in BFL's key names. The host fixes the encoder's width and infers the decoder's."""

import torch
from torch import Tensor

from .draw import Draw

CHANNEL_MULTIPLIERS = (1, 2, 4, 4)
LATENT = 32
ENCODER_CHANNELS = 128


def _norm(draw: Draw, name: str, channels: int) -> dict[str, Tensor]:
    return {f"{name}.weight": draw.scale(channels), f"{name}.bias": draw.normal(channels, std=0.05)}


def _conv(draw: Draw, name: str, out: int, into: int, kernel: int = 3) -> dict[str, Tensor]:
    return {
        f"{name}.weight": draw.conv(out, into, kernel),
        f"{name}.bias": draw.normal(out, std=0.05),
    }


def _resnet(draw: Draw, name: str, into: int, out: int) -> dict[str, Tensor]:
    block = _norm(draw, f"{name}.norm1", into) | _conv(draw, f"{name}.conv1", out, into)
    block |= _norm(draw, f"{name}.norm2", out) | _conv(draw, f"{name}.conv2", out, out)
    return block | (_conv(draw, f"{name}.nin_shortcut", out, into, 1) if into != out else {})


def _middle(draw: Draw, name: str, channels: int) -> dict[str, Tensor]:
    middle = _resnet(draw, f"{name}.block_1", channels, channels)
    middle |= _norm(draw, f"{name}.attn_1.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        middle |= _conv(draw, f"{name}.attn_1.{part}", channels, channels, 1)
    return middle | _resnet(draw, f"{name}.block_2", channels, channels)


def _encoder(draw: Draw) -> dict[str, Tensor]:
    weights = _conv(draw, "encoder.conv_in", ENCODER_CHANNELS, 3)
    into = ENCODER_CHANNELS
    for level, multiplier in enumerate(CHANNEL_MULTIPLIERS):
        out = ENCODER_CHANNELS * multiplier
        for i in range(2):
            weights |= _resnet(draw, f"encoder.down.{level}.block.{i}", into, out)
            into = out
        if level < len(CHANNEL_MULTIPLIERS) - 1:
            weights |= _conv(draw, f"encoder.down.{level}.downsample.conv", out, out)
    weights |= _middle(draw, "encoder.mid", into) | _norm(draw, "encoder.norm_out", into)
    weights |= _conv(draw, "encoder.conv_out", 2 * LATENT, into)
    return weights | _conv(draw, "encoder.quant_conv", 2 * LATENT, 2 * LATENT, 1)


def _decoder(draw: Draw, channels: int) -> dict[str, Tensor]:
    into = channels * CHANNEL_MULTIPLIERS[-1]
    weights = _conv(draw, "decoder.post_quant_conv", LATENT, LATENT, 1)
    weights |= _conv(draw, "decoder.conv_in", into, LATENT) | _middle(draw, "decoder.mid", into)
    for level, multiplier in reversed(list(enumerate(CHANNEL_MULTIPLIERS))):
        out = channels * multiplier
        for i in range(3):
            weights |= _resnet(draw, f"decoder.up.{level}.block.{i}", into, out)
            into = out
        if level > 0:
            weights |= _conv(draw, f"decoder.up.{level}.upsample.conv", out, out)
    return weights | _norm(draw, "decoder.norm_out", into) | _conv(draw, "decoder.conv_out", 3, into)


def _latent_statistics(draw: Draw) -> dict[str, Tensor]:
    """Published running variances lie between 2.91 and 3.47."""
    return {
        "bn.running_mean": draw.normal(4 * LATENT, std=0.1),
        "bn.running_var": 3.2 + draw.normal(4 * LATENT, std=0.1),
        "bn.num_batches_tracked": torch.tensor(1),
    }


def vae(*, decoder_channels: int = 32, seed: int = 16) -> dict[str, Tensor]:
    """A float32 state dict; decoder_channels is 128 in the full release."""
    draw = Draw(seed)
    return _encoder(draw) | _decoder(draw, decoder_channels) | _latent_statistics(draw)
