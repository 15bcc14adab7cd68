"""Blocks of the host's evaluated by our transformer, in the host's place for it: a replacement of one block.

Keys and values from elsewhere are an argument of theirs. The host's own blocks have no such argument; `cache_blocks`
gives them theirs through an attention patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...klein.transformer import (
    EVERY_TOKEN,
    Activation,
    BlockFunctions,
    Reference,
    Span,
    Stream,
    double_block,
    single_block,
)
from .block_functions import host_functions

Place = tuple[str, int]
Replacement = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
Functions = Callable[[dict[str, Any], Tensor], BlockFunctions]
DOUBLE, SINGLE = "double_block", "single_block"
ACCELERATION = "klein9b_accelerate"


def plain_functions(options: dict[str, Any], like: Tensor) -> BlockFunctions:
    """What blocks borrow where nothing accelerates them."""
    return host_functions(options)


def functions_by(options: dict[str, Any]) -> Functions:
    """As Klein 9B Accelerate has it, where these transformer_options have it."""
    acceleration = options.get(ACCELERATION)
    return plain_functions if acceleration is None else acceleration.functions


class OwnBlock(ABC):
    """What a node of ours puts into patches_replace for one block.

    The host calls it with the block's arguments. Whoever knows it to be ours may call `evaluate` and say more.

    Attributes:
        functions: transformer_options and the block's input -> what the block borrows.
    """

    def __init__(self, block: Any, functions: Functions = plain_functions) -> None:
        self.block = block
        self.functions = functions

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"](args) if args.get("attn_mask") is not None else self.evaluate(args)

    @abstractmethod
    def evaluate(
        self, args: dict[str, Any], *, reference: Reference | None = None, computed: Span = EVERY_TOKEN
    ) -> dict[str, Any]:
        """The block's output by its arguments, as the host passes both to a replacement.

        Args:
            reference: further keys (after rotation) and values to attend to.
            computed: the other tokens need not be computed.
        """


class OwnDouble(OwnBlock):
    """Computes every token, whatever is asked for."""

    def evaluate(
        self, args: dict[str, Any], *, reference: Reference | None = None, computed: Span = EVERY_TOKEN
    ) -> dict[str, Any]:
        img, txt = args["vec"]
        streams = Stream("txt", args["txt"], txt), Stream("img", args["img"], img)
        functions = self.functions(args["transformer_options"], args["img"])
        double_block(self.block, streams, args["pe"], functions, reference=reference)
        return {"txt": args["txt"], "img": args["img"]}


@dataclass
class Handed:
    """What a single block makes of its output for the next one, where nothing comes between the two.

    Attributes:
        to: the next block.
        modulated: its input normed and modulated, from the end of the one to the start of the other.
    """

    to: Any
    modulated: Activation | None = None

    def take(self) -> Activation | None:
        taken, self.modulated = self.modulated, None
        return taken


class OwnSingle(OwnBlock):
    """Attributes:
    before: from the block before; None where that is not ours, or something comes between.
    behind: for the next one.
    """

    def __init__(
        self,
        block: Any,
        functions: Functions = plain_functions,
        before: Handed | None = None,
        behind: Handed | None = None,
    ) -> None:
        super().__init__(block, functions)
        self.before = before
        self.behind = behind

    def evaluate(
        self, args: dict[str, Any], *, reference: Reference | None = None, computed: Span = EVERY_TOKEN
    ) -> dict[str, Any]:
        x = args["img"]
        made = single_block(
            self.block,
            x,
            args["vec"],
            args["pe"],
            self.functions(args["transformer_options"], x),
            reference=reference,
            computed=computed,
            modulated=self.before.take() if self.before else None,
            following=self.behind.to if self.behind else None,
        )
        if self.behind is not None:
            self.behind.modulated = made
        return {"img": x}


def own_block(place: Place, block: Any, functions: Functions = plain_functions) -> OwnBlock:
    """For the block at a place of patches_replace."""
    return (OwnDouble if place[0] == DOUBLE else OwnSingle)(block, functions)


def places(model: Any) -> list[Place]:
    """Of every block, in the order in which they run."""
    doubles = [(DOUBLE, index) for index in range(len(model.double_blocks))]
    return doubles + [(SINGLE, index) for index in range(len(model.single_blocks))]


def block_at(model: Any, place: Place) -> Any:
    """The block itself, where the host's compiler has put one of its own in its place too."""
    kind, index = place
    block = (model.double_blocks if kind == DOUBLE else model.single_blocks)[index]
    return getattr(block, "_orig_mod", block)
