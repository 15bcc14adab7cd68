"""How large the model and the pictures are: Klein 9B's own size, or one that a processor bears."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEAD_DIM = 128
MLP_RATIO = 3
CHANNELS = 128


@dataclass(frozen=True)
class Product:
    """Matrix products of one shape: (rows, features) @ (features, out)."""

    rows: int
    features: int
    out: int
    count: int

    @property
    def flops(self) -> int:
        """Of one of them."""
        return 2 * self.rows * self.features * self.out


@dataclass(frozen=True)
class Scale:
    """A FLUX.2 transformer and what it draws.

    Attributes:
        sides: of the square pictures, the first is the main one, in pixels; references have the first.
    """

    hidden: int = 4096
    doubles: int = 8
    singles: int = 24
    context: int = 12288
    text: int = 512
    sides: tuple[int, ...] = (1024, 512)

    @property
    def heads(self) -> int:
        return self.hidden // HEAD_DIM

    @property
    def blocks(self) -> int:
        return self.doubles + self.singles

    @property
    def elements(self) -> int:
        """Of the blocks' matrices."""
        double = 2 * (4 + 3 * MLP_RATIO) * self.hidden**2
        single = (4 + 3 * MLP_RATIO) * self.hidden**2
        return self.doubles * double + self.singles * single

    @staticmethod
    def grid(side: int) -> int:
        return side // 16

    def picture(self, side: int) -> int:
        """Tokens."""
        return self.grid(side) ** 2

    def tokens(self, side: int, references: int) -> int:
        """Of one evaluation."""
        return self.text + self.picture(side) + references * self.picture(self.sides[0])

    def products(self, side: int, references: int) -> Iterator[Product]:
        """The matrix products of an evaluation's blocks."""
        wide, mlp = self.hidden, MLP_RATIO * self.hidden
        tokens = self.tokens(side, references)
        for rows in (tokens - self.text, self.text):
            yield Product(rows, wide, 3 * wide, self.doubles)
            yield Product(rows, wide, wide, self.doubles)
            yield Product(rows, wide, 2 * mlp, self.doubles)
            yield Product(rows, mlp, wide, self.doubles)
        yield Product(tokens, wide, 3 * wide + 2 * mlp, self.singles)
        yield Product(tokens, wide + mlp, wide, self.singles)

    def flops(self, side: int, references: int) -> int:
        """Of one evaluation: its blocks' matrix products and attention, every token attending to every token."""
        tokens = self.tokens(side, references)
        attention = 4 * tokens**2 * self.hidden * self.blocks
        return attention + sum(one.flops * one.count for one in self.products(side, references))


FULL = Scale()
# The host pads a prompt to 512 tokens, whatever the size.
TINY = Scale(hidden=256, doubles=1, singles=2, context=256, sides=(96, 64))
