"""Values that travel between int8 ops."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Int8Input:
    """How a linear layer wants its input: in int8, with a scale for each token.

    Attributes:
        rotation: as of `Int8Rows`.
    """

    rotation: int


@dataclass(frozen=True)
class Int8Rows:
    """Activations as an int8 matrix product takes them: about levels * scale, rotated.

    Attributes:
        levels: int8 (batch, tokens, features).
        scale: float32 (batch, tokens, 1).
        rotation: how many neighbouring features were rotated together, see `eager.rotate`; 0 for none.
    """

    levels: Tensor
    scale: Tensor
    rotation: int

    def part(self, tokens: slice) -> Int8Rows:
        """Those tokens, as views."""
        return Int8Rows(self.levels[:, tokens], self.scale[:, tokens], self.rotation)


@dataclass(frozen=True)
class Int8Weight:
    """A linear layer's matrix, rotated as its input must be.

    Attributes:
        levels: int8 (out features, in features), contiguous.
        scale: float32 (out features, 1), or one for the whole matrix.
        rotation: as of `Int8Rows`.
    """

    levels: Tensor
    scale: Tensor
    rotation: int
