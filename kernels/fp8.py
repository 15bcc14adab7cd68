"""Values that travel between float8 ops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fp8Input:
    """How a linear layer wants its input: in float8_e4m3fn, by a scale that its file gives.

    Attributes:
        scale: float32, one number, on the input's device.
        rounded: see `eager.fp8_rows`.
    """

    scale: Tensor
    rounded: bool


@dataclass(frozen=True)
class Fp8Rows:
    """Activations as a float8 matrix product takes them: about levels * scale.

    Attributes:
        levels: float8_e4m3fn (batch, tokens, features).
        scale: float32, one number.
        dtype: what they were in before, and what the product is to be in.
    """

    levels: Tensor
    scale: Tensor
    dtype: torch.dtype

    def part(self, tokens: slice) -> Fp8Rows:
        """Those tokens, as views."""
        return Fp8Rows(self.levels[:, tokens], self.scale, self.dtype)
