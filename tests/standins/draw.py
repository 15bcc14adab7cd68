"""Random tensors for stand-in weights."""

import math

import torch
from torch import Tensor


class Draw:
    """Draws tensors in a fixed order from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=self.generator) * std

    def matrix(self, out_features: int, in_features: int) -> Tensor:
        return self.normal(out_features, in_features, std=1 / math.sqrt(in_features))

    def conv(self, out_channels: int, in_channels: int, kernel: int) -> Tensor:
        return self.normal(out_channels, in_channels, kernel, kernel, std=1 / math.sqrt(in_channels * kernel**2))

    def scale(self, features: int) -> Tensor:
        """A norm's weight: near one, never exactly."""
        return 1 + self.normal(features, std=0.1)
