"""What ComfyUI keeps on the card of a model that does not fit beside what it sets aside for running it.

Two ways, as ComfyUI 0.29 and 0.33 have them. The classic one decides once, before sampling, by an estimate of its own
(comfy/model_management.py load_models_gpu, comfy/model_patcher.py ModelPatcher.load). Dynamic VRAM brings a weight to
the card when it is used and lets go of it when something else needs the room (ModelPatcherDynamic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 2**20
GIB = 2**30
RESERVED = 400 * MIB  # 600 to 700 on Windows
DESKTOP = 700 * MIB


@dataclass(frozen=True)
class Module:
    """One layer of a model: its bytes, and those on the card while it is brought there for one use."""

    stored: int
    used: int


@dataclass(frozen=True)
class Card:
    """Where a model runs, as ComfyUI sees it; bytes.

    Attributes:
        name: empty where the card is only imagined.
        total: its memory, None where nobody knows.
        free: what is free of it once every model has left.
        ram: free RAM.
        reserved: kept for other programs (--reserve-vram).
        is_processor: there is no card; its memory is the RAM.
        dynamic: dynamic VRAM is on.
        streams: how many copies run ahead (--async-offload).
        least_share: of the free memory that the model gets whatever the estimate says; 0 on NVIDIA.
        stays: whether the whole model (--highvram) or next to nothing of it (--novram) stays, room or not; None where
            that is a matter of room.
        encodes: the text encoder runs here, not on the processor (--lowvram without dynamic VRAM).
    """

    name: str
    total: int | None
    free: int
    ram: int
    reserved: int = RESERVED
    is_processor: bool = False
    dynamic: bool = False
    streams: int = 2
    least_share: float = 0.0
    stays: bool | None = None
    encodes: bool = True

    @property
    def least_inference(self) -> float:
        """What is set aside for running any model."""
        return 0.8 * GIB + self.reserved


def imagined_card(gib: float, ram: int) -> Card:
    """One of NVIDIA's by its size alone, on a machine with so many bytes of RAM: what ComfyUI does there by default.

    A desktop and the driver take some of it.
    """
    size = int(gib * GIB)
    return Card("", size, max(0, size - DESKTOP), ram, dynamic=True)


@dataclass(frozen=True)
class Kept:
    """Bytes of a model on the card while it runs, and set aside for bringing the rest there."""

    resident: int
    buffer: int = 0


def classic(modules: Sequence[Module], card: Card, estimate: float, beside: int = 0) -> Kept:
    """The classic way.

    Args:
        estimate: what the host takes one evaluation of the model for.
        beside: what of other models stays on the card.
    """
    free = card.free - beside
    aside = max(card.least_inference, estimate + card.reserved)
    allowance = max(0.1, free - aside, min(free * card.least_share, free - card.least_inference))
    whole = sum(module.stored for module in modules)
    if card.stays or (card.stays is None and allowance > whole):
        return Kept(whole)
    return _partly(modules, 0.1 if card.stays is False else allowance, card.streams)


def dynamic(modules: Sequence[Module], card: Card, needed: int) -> Kept:
    """Dynamic VRAM: what is really needed beside the weights makes them leave, and nothing else does."""
    whole = sum(module.stored for module in modules)
    return Kept(max(0, min(whole, card.free - card.reserved - needed)))


def _partly(modules: Sequence[Module], allowance: float, streams: int) -> Kept:
    """The largest layers first, each while there is room for it and for bringing the largest others."""
    order = sorted(modules, key=lambda module: (module.used, module.stored), reverse=True)
    kept = buffer = 0
    for place, module in enumerate(order):
        ahead = sum(one.stored for one in order[place + 1 : place + 1 + streams])
        needed = max(buffer, module.used + ahead)
        if kept + module.stored + needed < allowance:
            kept += module.stored
        else:
            buffer = needed
    return Kept(kept, buffer)
