"""The computer's RAM as whoever manages it grants it: room, and pages that a device may copy from by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RAM = torch.device("cpu")


@dataclass(frozen=True)
class Ram:
    """What may be asked.

    Attributes:
        pin: locks a CPU tensor's pages, so that copies from it need no processor. False where that is refused.
        unpin: undoes it; must come before the tensor is gone.
        room: how many bytes more may be taken; below zero where RAM is short already.
    """

    pin: Callable[[Tensor], bool]
    unpin: Callable[[Tensor], object]
    room: Callable[[], int]

    def has_room(self, size: int) -> bool:
        return self.room() >= size

    def copy(self, tensors: tuple[Tensor, ...]) -> RamCopy:
        """Of tensors on a device."""
        return RamCopy(self, tensors)


class RamCopy:
    """Copies of tensors in RAM, pinned where the RAM's manager lets them, until they are released.

    Attributes:
        tensors: in the order given.
    """

    def __init__(self, ram: Ram, tensors: tuple[Tensor, ...]) -> None:
        self._ram = ram
        self._pinned: list[Tensor] = []  # before anything can fail: what is half made is released, too
        self.tensors = tuple(torch.empty(t.shape, dtype=t.dtype, device=RAM) for t in tensors)
        self._pinned.extend(copy for copy in self.tensors if ram.pin(copy))
        for copy, tensor in zip(self.tensors, tensors):
            copy.copy_(tensor)

    @property
    def pinned_bytes(self) -> int:
        return sum(t.nbytes for t in self._pinned)

    def release(self) -> None:
        """Unlocks the pages; nothing may be copying from them any more."""
        while self._pinned:
            self._ram.unpin(self._pinned.pop())

    def __del__(self) -> None:
        self.release()


PLAIN = Ram(pin=lambda tensor: False, unpin=lambda tensor: None, room=lambda: sys.maxsize)
