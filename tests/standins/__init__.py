"""Weights with Klein's real key names and small dims, so that the real host loads and samples in seconds.

Matrices have std 1/sqrt(fan_in): with smaller weights references hardly move the output and a wrong
attention would pass every test.
"""

from .files import CHECKPOINTS, TEXT_ENCODER, VAES, write_models
from .photographs import photograph, write_photographs
from .transformer import transformer
from .vae import vae

__all__ = [
    "CHECKPOINTS",
    "TEXT_ENCODER",
    "VAES",
    "photograph",
    "transformer",
    "vae",
    "write_models",
    "write_photographs",
]
