"""Tokens taken out and added before the first block, where the host lets a patch change what its blocks are given."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...klein.attention_plan import Layout
from ...klein.influence import AttentionSettings

LEAST_TEXT = 512  # The host fills shorter prompts up from the front.


class ChangedTokens:
    """The patch by which the host lets the tokens be changed before the first block.

    Attributes:
        layout: of the tokens that stay.
        whole: how many tokens each reference has.
        kept: of each, the indices of those that stay; None for all of them.
    """

    def __init__(self, layout: Layout, whole: tuple[int, ...], kept: tuple[Tensor | None, ...]) -> None:
        self.layout = layout
        self.whole = whole
        self.kept = kept

    @cached_property
    def kept_tokens(self) -> Hashable:
        """Equal only where the same tokens of references stay."""
        return tuple(None if one is None else tuple(one.tolist()) for one in self.kept)

    @property
    def described(self) -> Hashable:
        """Equal only where the same tokens come out of the same ones."""
        return self.layout.text, self.layout.negative, self.kept_tokens

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        return self._without_dropped(self._with_negative(args))

    def _with_negative(self, args: dict[str, Any]) -> dict[str, Any]:
        """The negative prompt is in the prompt's place, not behind it."""
        layout, ids = self.layout, args["txt_ids"]
        if not layout.negative:
            return args
        return args | {"txt_ids": torch.cat((ids[:, : layout.text], ids[:, : layout.negative]), dim=1)}

    def _without_dropped(self, args: dict[str, Any]) -> dict[str, Any]:
        """Positions leave where their tokens have gone already too: the host's own cache rotates kept keys by them."""
        picture = self.layout.own - self.layout.text - self.layout.negative
        every, tokens = picture + sum(self.whole), args["img"].shape[1]
        if all(kept is None for kept in self.kept):
            return args
        if tokens not in (picture, every):
            raise ValueError(
                f"The picture and the references are {every} tokens, but the first block gets {tokens}: another node "
                "adds or removes tokens, so masks over references cannot act. Remove one of the two."
            )
        index = self._index(picture).to(args["img"].device)
        whole = [name for name in ("img", "img_ids") if args[name].shape[1] == every]
        args["transformer_options"]["reference_image_num_tokens"] = list(self.layout.references)
        return args | {name: args[name][:, index] for name in whole}

    def _index(self, picture: int) -> Tensor:
        """Of the tokens that stay, among the picture's and all references'."""
        starts = accumulate(self.whole, initial=picture)
        runs = [
            start + (torch.arange(count) if kept is None else kept)
            for start, count, kept in zip(starts, self.whole, self.kept)
        ]
        return torch.cat((torch.arange(picture), *runs))


def kept_tokens(settings: AttentionSettings, number: int, latent: Tensor) -> Tensor | None:
    """Indices of a reference's tokens that stay in the run; None for all of them."""
    influence = settings.influences.get(number)
    if influence is None or (influence.kept is None and influence.strength > 0):
        return None
    if influence.strength == 0 or influence.kept is None:
        return torch.empty(0, dtype=torch.int64)
    if influence.kept.shape != latent.shape[-2:]:
        raise ValueError(
            f"The mask over image {number} is for {list(influence.kept.shape)} tokens, but the image has "
            f"{list(latent.shape[-2:])}. Make both in one run of the graph."
        )
    return influence.kept.flatten().nonzero().flatten()


def filled_up(embeds: Tensor) -> Tensor:
    """As the host fills up a short prompt."""
    return pad(embeds, (0, 0, max(0, LEAST_TEXT - embeds.shape[1]), 0))
