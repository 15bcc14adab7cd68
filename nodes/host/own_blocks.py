"""Blocks of the host's evaluated by our transformer, in the host's place for it: a replacement of one block.

Keys and values from elsewhere are an argument of theirs. The host's own blocks have no such argument; `cache_blocks`
gives them theirs through an attention patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ...kernels.eager.append_kv import KeyValue
from ...klein.transformer import Stream, double_block, single_block
from .block_functions import host_functions

Place = tuple[str, int]
Replacement = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
DOUBLE, SINGLE = "double_block", "single_block"


class OwnBlock(ABC):
    """What a node of ours puts into patches_replace for one block.

    The host calls it with the block's arguments. Whoever knows it to be ours may call `evaluate` and say more.
    """

    def __init__(self, block: Any) -> None:
        self.block = block

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        if args.get("attn_mask") is not None:
            return extra["original_block"](args)
        return self.evaluate(args)

    @abstractmethod
    def evaluate(
        self, args: dict[str, Any], *, reference: KeyValue | None = None, first_query: int = 0
    ) -> dict[str, Any]:
        """The block's output by its arguments, as the host passes both to a replacement.

        Args:
            reference: further keys (after rotation) and values to attend to.
            first_query: tokens before it need not be computed.
        """


class OwnDouble(OwnBlock):
    """Computes every token, whatever first_query is."""

    def evaluate(
        self, args: dict[str, Any], *, reference: KeyValue | None = None, first_query: int = 0
    ) -> dict[str, Any]:
        img, txt = args["vec"]
        streams = Stream("txt", args["txt"], txt), Stream("img", args["img"], img)
        double_block(self.block, streams, args["pe"], host_functions(args["transformer_options"]), reference=reference)
        return {"txt": args["txt"], "img": args["img"]}


class OwnSingle(OwnBlock):
    def evaluate(
        self, args: dict[str, Any], *, reference: KeyValue | None = None, first_query: int = 0
    ) -> dict[str, Any]:
        x, functions = args["img"], host_functions(args["transformer_options"])
        single_block(self.block, x, args["vec"], args["pe"], functions, reference=reference, first_query=first_query)
        return {"img": x}


def own_block(place: Place, block: Any) -> OwnBlock:
    """For the block at a place of patches_replace."""
    return (OwnDouble if place[0] == DOUBLE else OwnSingle)(block)


def places(model: Any) -> list[Place]:
    """Of every block, in the order in which they run."""
    doubles = [(DOUBLE, index) for index in range(len(model.double_blocks))]
    return doubles + [(SINGLE, index) for index in range(len(model.single_blocks))]


def block_at(model: Any, place: Place) -> Any:
    """The block itself, where the host's compiler has put one of its own in its place too."""
    kind, index = place
    block = (model.double_blocks if kind == DOUBLE else model.single_blocks)[index]
    return getattr(block, "_orig_mod", block)
