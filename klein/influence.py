"""How strongly, where and when each part of the keys counts in attention, as a person sets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .interval import Interval
from .tiles import Window

CELL = 16  # pixels across that one token stands for
SAMPLES = 96


class UnusableRegion(ValueError):
    """A region that does not fit the picture; the message says why and what to do."""


@dataclass(frozen=True)
class Box:
    """A part of the picture in fractions of its width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def on_grid(self, height: int, width: int) -> Tensor:
        """How much of each token's cell it covers, (height, width) in [0, 1]."""
        return _covered(self.top, self.bottom, height)[:, None] * _covered(self.left, self.right, width)[None]

    def sampled(self) -> Tensor:
        """On a grid that does not depend on the picture, for one region to be compared with another."""
        return self.on_grid(SAMPLES, SAMPLES)


@dataclass(frozen=True, eq=False)
class Mask:
    """A painted part of the picture.

    Attributes:
        pixels: (height, width) in [0, 1], of the picture's shape at any size.
        name: what an error calls it.
    """

    pixels: Tensor
    name: str = "mask"

    def on_grid(self, height: int, width: int) -> Tensor:
        """As of `Box`, antialiased.

        Raises:
            UnusableRegion: it has another shape than the picture.
        """
        rows, columns = self.pixels.shape
        if abs(rows * width - columns * height) > max(rows, columns):
            raise UnusableRegion(
                f"The {self.name} is {columns}x{rows} pixels, but the picture is {width * CELL}x{height * CELL}, of "
                "another shape. Paint it on a picture of that shape."
            )
        return self._pooled(height, width)

    def sampled(self) -> Tensor:
        """As of `Box`."""
        return self._pooled(SAMPLES, SAMPLES)

    def _pooled(self, height: int, width: int) -> Tensor:
        pooled: Tensor = adaptive_avg_pool2d(self.pixels[None].float(), (height, width))[0]
        return pooled.clamp(0, 1)


Region = Box | Mask
EVERYWHERE = Box()


class ReferenceInterval(Interval):
    """When a reference counts."""

    what: ClassVar[str] = "interval of the reference"


@dataclass(frozen=True, eq=False)
class Influence:
    """Of one reference.

    Attributes:
        strength: the attention logits of its tokens gain log(strength) in every token that is not a reference's. 0
            takes it out of the run, with the others' numbers kept.
        where: the part of the picture that may look at it, None for all of it; between 0 and 1 as of strength.
        kept: (height, width) on its latent grid, False for tokens that are taken out; None keeps all.
        interval: outside of it the reference is out of the run.
    """

    strength: float = 1.0
    where: Region | None = None
    kept: Tensor | None = None
    interval: Interval = field(default_factory=ReferenceInterval)

    def then(self, later: Influence) -> Influence:
        """What a later one leaves of this: tokens that were taken out stay out."""
        kept = self.kept if later.kept is None else later.kept
        if self.kept is not None and later.kept is not None:
            kept = self.kept & later.kept
        return replace(later, kept=kept)


@dataclass(frozen=True, eq=False)
class Cast:
    """A part of the prompt, references and a region that belong together.

    Attributes:
        tokens: from and to, of each run of the prompt's tokens.
        prompt_tokens: how many the prompt has.
        references: their numbers, from 1.
    """

    tokens: tuple[tuple[int, int], ...]
    prompt_tokens: int
    references: frozenset[int]
    where: Region


@dataclass(frozen=True, eq=False)
class Negative:
    """What the picture should not show.

    Attributes:
        embeds: (1, tokens, channels), an encoded prompt.
        strength: of the guidance away from it, 1 for none.
    """

    embeds: Tensor
    strength: float


@dataclass(frozen=True, eq=False)
class AttentionSettings:
    """All that is set for one prompt.

    Attributes:
        influences: by the number of the reference, from 1.
    """

    influences: Mapping[int, Influence] = field(default_factory=dict)
    casts: tuple[Cast, ...] = ()
    negative: Negative | None = None

    @property
    def empty(self) -> bool:
        return not (self.influences or self.casts or self.negative)

    def joined(self, other: AttentionSettings) -> AttentionSettings:
        """Both; the other's where only one can be."""
        later = {
            number: self.influences[number].then(one) if number in self.influences else one
            for number, one in other.influences.items()
        }
        return AttentionSettings(
            {**self.influences, **later}, self.casts + other.casts, other.negative or self.negative
        )


def within(settings: AttentionSettings, window: Window, picture: tuple[int, int]) -> AttentionSettings:
    """What is set for a picture, as of a part of it that is painted by itself and sees that part of image 1.

    Args:
        picture: height and width in cells.
    """
    influences = {
        number: replace(one, where=one.where and _part(one.where, window, picture), kept=_kept(one, number, window))
        for number, one in settings.influences.items()
    }
    casts = tuple(replace(cast, where=_part(cast.where, window, picture)) for cast in settings.casts)
    return replace(settings, influences=influences, casts=casts)


def _part(region: Region, window: Window, picture: tuple[int, int]) -> Region:
    name = region.name if isinstance(region, Mask) else "region"
    return Mask(window.of(region.on_grid(*picture)), name)


def _kept(influence: Influence, number: int, window: Window) -> Tensor | None:
    """Of the first reference, which lies over the picture, the tokens that are in the window."""
    return influence.kept if influence.kept is None or number > 1 else window.of(influence.kept)


def _covered(start: float, stop: float, cells: int) -> Tensor:
    """Of each of so many cells, the part between two fractions of all."""
    first = torch.arange(cells, dtype=torch.float64)
    return ((first + 1).clamp(max=stop * cells) - first.clamp(min=start * cells)).clamp(0, 1).float()
