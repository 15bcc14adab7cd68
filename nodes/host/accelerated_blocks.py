"""One evaluation's blocks: ours at every place, or what stands there given ours for the host's own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor

from ...klein.transformer import EVERY_TOKEN, Reference, Span
from .block_functions import is_hung_onto
from .own_blocks import Functions, Handed, OwnBlock, OwnSingle, Place, Replacement, block_at, own_block, places
from .position_tables import PositionTables

_PATCHES_INSIDE = ("attn1_patch", "attn1_output_patch")


class Told(Protocol):
    """Whoever keeps count of a run."""

    accelerated: int

    def leave(self, what: str, reason: str) -> None: ...


class AcceleratedBlocks:
    """Puts ours in place for one evaluation.

    The host hands the position table to every block. Where ours stand at all places it is told that there are no
    positions, and the blocks are given a table from earlier in the run.

    Attributes:
        picture: how many tokens the picture has, before those of references; None where a ControlNet has a hand in
            what lies between the blocks.
    """

    def __init__(
        self, functions: Functions, told: Told, tables: PositionTables, key: Hashable | None, picture: int | None
    ) -> None:
        self.functions = functions
        self.told = told
        self.tables = tables
        self.key = key
        self.picture = picture
        self.table: Tensor | None = None

    def options(self, model: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The host's transformer_options with ours in place."""
        found = options.get("patches_replace", {}).get("dit", {})
        replaced = dict(found) | {place: self._at(place, model, found.get(place)) for place in places(model)}
        self._hand_on([replaced[place] for place in places(model)])
        patches = options.get("patches", {})
        ours = {"post_input": [*patches.get("post_input", []), self._positions(model)]}
        return options | {
            "patches": patches | ours,
            "patches_replace": options.get("patches_replace", {}) | {"dit": replaced},
        }

    def complete(self, args: dict[str, Any]) -> dict[str, Any]:
        """A block's arguments with the position table that the host was told not to make."""
        return args | {"pe": self.table} if args.get("pe") is None else args

    def _positions(self, model: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def post_input(args: dict[str, Any]) -> dict[str, Any]:
            if args["img_ids"] is None:
                return args
            self.table = self.tables.find_or_make(self.key, model, args["txt_ids"], args["img_ids"])
            return args | {"img_ids": None}

        return post_input

    def _hand_on(self, replaced: list[Replacement]) -> None:
        """A single block of ours makes the next one's first activation where nothing can come between them."""
        if self.picture is None:
            return
        singles = [one.single if isinstance(one, AcceleratedBlock) else None for one in replaced]
        for one, following in pairwise(singles):
            if one is not None and following is not None:
                one.behind = following.before = Handed(following.block)

    def _at(self, place: Place, model: Any, found: Replacement | None) -> Replacement:
        block = block_at(model, place)
        if is_hung_onto(block):
            self.told.leave(_called(place), "something is hung onto it")
            return _Completed(self, found)
        if isinstance(found, OwnBlock):
            return AcceleratedBlock(found, place, self)
        made = own_block(place, block, self.functions)
        single = made if found is None and isinstance(made, OwnSingle) else None
        accelerated = AcceleratedBlock(made, place, self, single)
        return accelerated if found is None else _Around(self, found, accelerated)


class AcceleratedBlock(OwnBlock):
    """One of ours, unless something stands in its way.

    Attributes:
        inner: does the work.
        single: that, where it is a single block made for this evaluation, which nothing else looks into.
    """

    def __init__(
        self, inner: OwnBlock, place: Place, blocks: AcceleratedBlocks, single: OwnSingle | None = None
    ) -> None:
        super().__init__(inner.block, inner.functions)
        self.inner = inner
        self.single = single
        self.place = place
        self.blocks = blocks

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        unfit = _unfit_because(args)
        if unfit is None:
            return self._trimmed(args)
        self.blocks.told.leave(_called(self.place), unfit)
        left: dict[str, Any] = extra["original_block"](self.blocks.complete(args))
        return left

    def evaluate(
        self, args: dict[str, Any], *, reference: Reference | None = None, computed: Span = EVERY_TOKEN
    ) -> dict[str, Any]:
        self.blocks.told.accelerated += 1
        return self.inner.evaluate(self.blocks.complete(args), reference=reference, computed=computed)

    def _trimmed(self, args: dict[str, Any]) -> dict[str, Any]:
        """The last block leaves out the tokens whose output nobody reads: the text's, and the references'."""
        options, picture = args["transformer_options"], self.blocks.picture
        kind, index = self.place
        if picture is None or kind == "double_block" or index + 1 < options["total_blocks"]:
            return self.evaluate(args)
        text, _ = options["img_slice"]
        out = self.evaluate(args, computed=Span(text, text + picture))
        return out | {"img": out["img"][:, : text + picture]}


class _Completed:
    """The host's own block, or whatever stands there, with the position table."""

    def __init__(self, blocks: AcceleratedBlocks, found: Replacement | None) -> None:
        self.blocks = blocks
        self.found = found

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        args = self.blocks.complete(args)
        out: dict[str, Any] = extra["original_block"](args) if self.found is None else self.found(args, extra)
        return out


class _Around:
    """A foreign replacement, which finds ours where it looks for the host's own block."""

    def __init__(self, blocks: AcceleratedBlocks, found: Replacement, accelerated: AcceleratedBlock) -> None:
        self.blocks = blocks
        self.found = found
        self.accelerated = accelerated

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        def original_block(asked: dict[str, Any]) -> dict[str, Any]:
            unfit = _unfit_because(asked)
            if unfit is None:
                return self.accelerated.evaluate(asked)
            self.blocks.told.leave(_called(self.accelerated.place), unfit)
            left: dict[str, Any] = extra["original_block"](asked)
            return left

        return self.found(self.blocks.complete(args), {**extra, "original_block": original_block})


def _unfit_because(args: dict[str, Any]) -> str | None:
    if args.get("attn_mask") is not None:
        return "attention has a mask"
    patches = args["transformer_options"].get("patches", {})
    name = next((name for name in _PATCHES_INSIDE if patches.get(name)), None)
    return None if name is None else f"another node patches {name}, inside the block"


def _called(place: Place) -> str:
    kind, index = place
    return f"{kind.replace('_', ' ')} {index}"
