"""Where the references' keys and values are kept: on the device, in RAM, or no longer."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from heapq import nlargest
from typing import Any

import torch
from torch import Tensor

from ..kernels.eager.append_kv import KeyValue
from ..kernels.eager.kv_int4 import group_size, pack_kv_int4, unpack_kv_int4
from ..kernels.eager.kv_int8 import pack_kv_int8, unpack_kv_int8
from .layer_stream import LayerStream
from .ram import PLAIN, RAM, Ram, RamCopy

Tensors = tuple[Tensor, ...]
UNLIMITED = sys.maxsize


class Storage(str, Enum):
    """How keys and values are kept. MODEL is exact; INT8 is about half of bfloat16, INT4 less than a third."""

    MODEL = "model dtype"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def approximate(self) -> str:
        """Why the picture is an approximation, empty where it is exact."""
        return "" if self is Storage.MODEL else f"{self.value} rounds what is kept of the references"

    def pack(self, pair: KeyValue) -> Tensors:
        if self is Storage.MODEL:
            return pair
        pack = pack_kv_int8 if self is Storage.INT8 else pack_kv_int4
        return (*pack(pair[0]), *pack(pair[1]))

    def unpack(self, tensors: Tensors, dtype: torch.dtype) -> KeyValue:
        if self is Storage.MODEL:
            key, value = tensors
            return key, value
        unpack = unpack_kv_int8 if self is Storage.INT8 else unpack_kv_int4
        key, key_scale, value, value_scale = tensors
        return unpack(key, key_scale, dtype), unpack(value, value_scale, dtype)

    def bytes_per_vector(self, head_dim: int, dtype: torch.dtype) -> int:
        """Of one token, in one head, key or value."""
        if self is Storage.MODEL:
            return head_dim * dtype.itemsize
        if self is Storage.INT8:
            return head_dim + torch.float32.itemsize
        return head_dim // 2 + head_dim // group_size(head_dim) * torch.bfloat16.itemsize


class Placement(str, Enum):
    """Where a run's keys and values lie: on the device as far as there is room, wholly there, or in RAM."""

    AUTO = "auto"
    GPU = "gpu"
    CPU = "cpu"


class NoRoom(RuntimeError):
    """The device has less room than Placement.GPU needs, or RAM than Placement.CPU; the message says how much."""


class NoRoomAnywhere(RuntimeError):
    """The device and RAM together have less room than Placement.AUTO needs."""


def bytes_per_token(model: Any, storage: Storage, dtype: torch.dtype) -> int:
    """What the keys and values of one token take in all blocks.

    Args:
        model: the diffusion model, with Klein's module names.
        dtype: of the keys and values.
    """
    blocks = len(model.double_blocks) + len(model.single_blocks)
    return 2 * blocks * model.num_heads * storage.bytes_per_vector(model.hidden_size // model.num_heads, dtype)


@dataclass
class Layer:
    """One block's key and value as stored.

    Attributes:
        copy: holds the tensors in RAM, where that is not the device itself.
    """

    tensors: Tensors
    on_device: bool
    copy: RamCopy | None = None

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


@dataclass
class Entry:
    """Every block's keys and values of one set of references.

    Attributes:
        seconds: what computing it took, 0 until known.
    """

    storage: Storage
    dtype: torch.dtype
    layers: list[Layer] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def device_bytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers if layer.on_device)

    @property
    def tokens(self) -> int:
        return self.layers[0].tensors[0].shape[2]


class ReferenceStore:
    """Entries by key, least recently used first, under a budget of bytes.

    The budget bounds what is kept after a run, on the device and in RAM together; the entries of the run that is
    going on are never dropped, unless it says with `rest` that they may make way for what it uses next. The allowance
    bounds the part on the device: whoever manages its memory sets it with `allow` and takes bytes back with `offload`,
    at any moment; what the run uses is then moved to RAM, whatever room that has. What no run uses is dropped where RAM
    has none, and what a run would add there is refused.
    """

    def __init__(self, device: torch.device, ram: Ram = PLAIN) -> None:
        self.device = device
        self.budget = UNLIMITED
        self.allowance = UNLIMITED
        self.placement = Placement.AUTO
        self._ram = ram
        self._tokens = 0
        self._sets = 1
        self._needed = 0
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._in_use: set[Hashable] = set()
        self._resting: set[Hashable] = set()
        self._building: Entry | None = None
        self._reserved: Tensor | None = None
        self._stream = LayerStream(device)

    def held(self) -> list[Hashable]:
        """Every key, least recently used first."""
        return list(self._entries)

    def find(self, key: Hashable) -> Entry | None:
        """The entry of exactly this key, now the most recently used and in use until the run ends."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self._in_use.add(key)
        return entry

    def add(self, key: Hashable, pairs: Iterable[KeyValue], storage: Storage, dtype: torch.dtype) -> Entry:
        """Keeps pairs as they are computed. If computing fails, nothing of them stays.

        Raises:
            NoRoom: where they must lie has no room for them.
            NoRoomAnywhere: neither the device nor RAM has.
        """
        self._release_reserve()
        self._building = entry = Entry(storage, dtype)
        try:
            for pair in pairs:
                entry.layers.append(self._place(Layer(storage.pack(pair), on_device=True)))
        finally:
            self._building = None
        self._entries[key] = entry
        self._in_use.add(key)
        self._drop_over_budget()
        return entry

    def rest(self) -> None:
        """The run has done with what it used for now: that stays as long as there is room for what it uses next."""
        self._resting |= self._in_use
        self._in_use.clear()

    def read(self, entry: Entry, index: int) -> KeyValue:
        """One block's key and value on the device; the next block's copy from RAM begins."""
        return entry.storage.unpack(self.fetch(entry, index), entry.dtype)

    def fetch(self, entry: Entry, index: int) -> Tensors:
        """As `read`, but as they are stored."""
        layer = entry.layers[index]
        if not layer.on_device:
            self._release_reserve()
            if self._make_room(layer.nbytes):
                self._to_device((id(entry), index), layer)
        if not layer.on_device and self.placement is Placement.GPU:
            raise self._no_room_on_device(layer.nbytes)
        tensors = layer.tensors if layer.on_device else self._stream.take((id(entry), index), layer.tensors)
        following = entry.layers[(index + 1) % len(entry.layers)]
        if not following.on_device:
            self._stream.start((id(entry), (index + 1) % len(entry.layers)), following.tensors)
        return tensors

    @property
    def held_bytes(self) -> int:
        return sum(entry.nbytes for entry in self._all())

    @property
    def device_bytes(self) -> int:
        """On the device, what is reserved there included."""
        reserved = 0 if self._reserved is None else self._reserved.nbytes
        return reserved + self._kept_on_device

    @property
    def wanted_bytes(self) -> int:
        """What the store would have on the device if it may: what lies there, and the rest of what the run needs."""
        return self._kept_on_device + self._missing

    def begin_run(
        self,
        budget: int,
        tokens: int,
        bytes_per_token: int,
        placement: Placement = Placement.AUTO,
        sets: int = 1,
    ) -> None:
        """Announces a run of sets of references, each of so many tokens. Held entries of that size count as theirs."""
        self.budget = budget
        self.placement = placement
        self._tokens, self._sets = tokens, sets
        self._needed = sets * tokens * bytes_per_token
        self._in_use.clear()
        self._resting.clear()
        self._drop_over_budget()
        if placement is Placement.CPU:
            self.allow(0)

    def require_room(self) -> None:
        """Before a run computes anything.

        Raises:
            NoRoom: the references must lie on the device, and the allowance is less than they need.
        """
        if self.placement is Placement.GPU and self._needed > self.allowance:
            raise self._no_room_on_device(0)

    def make_way(self, free: int) -> None:
        """After the device ran out of memory: everything leaves it. free: what it has free beside the store.

        Raises:
            NoRoom: the references must lie there.
            NoRoomAnywhere: RAM has no room for them.
        """
        if self.placement is Placement.GPU:
            room = f"{_gib(self.device_bytes + free)} there for them and for a step, which was not enough"
            raise self._no_room(self._needed, f"on {self.device}", room)
        while self._idle() and not self._ram.has_room(self._kept_on_device):
            self._drop(self._idle()[0])
        if self._kept_on_device:
            self._require_ram(self._kept_on_device)
        self.offload(max(1, self.device_bytes))

    def end_run(self) -> None:
        """Drops what the budget or the RAM has no room for; with a budget of 0, everything."""
        self._release_reserve()
        self._stream.forget()
        self._tokens = self._needed = 0
        self._in_use.clear()
        self._drop_over_budget(resting=True)
        self._drop_while_ram_is_short(0)
        self._resting.clear()

    def allow(self, device_bytes: int) -> None:
        """Sets the allowance, gives back what is above it, and takes hold of what the run will bring."""
        self.allowance = 0 if self.placement is Placement.CPU else max(0, device_bytes)
        self._release_reserve()
        self.offload(self.device_bytes - self.allowance)
        room = min(self._missing, self.allowance - self.device_bytes)
        if room > 0 and self.device != RAM:
            with suppress(RuntimeError):
                self._reserved = torch.empty(room, dtype=torch.uint8, device=self.device)

    def offload(self, device_bytes: int) -> int:
        """Moves at least so many bytes to RAM, least recently used first, where there are as many. Bytes freed."""
        if device_bytes <= 0:
            return 0
        before = self.device_bytes
        self._release_reserve()
        for key, layer in self._device_layers(include_in_use=True):
            if before - self.device_bytes >= device_bytes:
                break
            self._evict(key, layer)
        self.allowance = min(self.allowance, self.device_bytes)
        return before - self.device_bytes

    @property
    def _kept_on_device(self) -> int:
        return sum(entry.device_bytes for entry in self._all())

    @property
    def _missing(self) -> int:
        """Bytes that the run needs on the device and that are not there yet, be they in RAM or to be computed."""
        if self.placement is Placement.CPU:
            return 0
        there = (entry.device_bytes for entry in self._all() if entry.layers and entry.tokens == self._tokens)
        return max(0, self._needed - sum(nlargest(self._sets, there)))

    def _all(self) -> Iterator[Entry]:
        yield from self._entries.values()
        if self._building is not None:
            yield self._building

    def _place(self, layer: Layer) -> Layer:
        if self._make_room(layer.nbytes):
            return layer
        if self.placement is Placement.GPU:
            raise self._no_room_on_device(layer.nbytes)
        self._require_ram(layer.nbytes)
        self._to_ram(layer)
        return layer

    def _require_ram(self, size: int) -> None:
        """Room there for so many bytes more, after dropping what no run uses."""
        if self.device == RAM:
            return
        self._drop_while_ram_is_short(size)
        if self._ram.has_room(size):
            return
        if self.placement is Placement.CPU:
            raise self._no_room_in_ram(size)
        raise NoRoomAnywhere(f"There is no room for the references' keys and values on {self.device}, nor in RAM.")

    def _no_room_on_device(self, more: int) -> NoRoom:
        needed = max(self._needed, self.device_bytes + more)
        room = f"room there for {_gib(self.allowance)} beside what a step needs"
        return self._no_room(needed, f"on {self.device}", room)

    def _no_room_in_ram(self, more: int) -> NoRoom:
        there = self.held_bytes - self._kept_on_device
        room = f"room there for {_gib(there + max(0, self._ram.room()))} beside what it keeps free"
        return self._no_room(max(self._needed, there + more), "in RAM", room)

    def _no_room(self, needed: int, where: str, room: str) -> NoRoom:
        others = "auto" if self.placement is Placement.CPU else "auto or cpu"
        return NoRoom(
            f"The references' keys and values need {_gib(needed)} {where}, and ComfyUI has {room}. Set placement to "
            f"{others}, storage to a smaller one, or connect fewer or smaller references."
        )

    def _make_room(self, device_bytes: int) -> bool:
        """Whether so many more bytes may lie on the device, after taking what no run uses from there."""
        for key, layer in self._device_layers(include_in_use=False):
            if self.device_bytes + device_bytes <= self.allowance:
                break
            self._evict(key, layer)
        return self.device_bytes + device_bytes <= self.allowance

    def _idle(self, *, resting: bool = True) -> list[Hashable]:
        """What may make way, in this order: what the run has not used, longest unused first; then what rests.

        Of that the last first: the run comes back to all of it in the same order, and would find nothing of what is
        dropped longest unused first.
        """
        idle = [key for key in self._entries if key not in self._in_use]
        others = [key for key in idle if key not in self._resting]
        return [*others, *(key for key in reversed(idle) if resting and key in self._resting)]

    def _device_layers(self, *, include_in_use: bool) -> Iterator[tuple[Hashable, Layer]]:
        for key in list(self._entries) if include_in_use else self._idle():
            for layer in self._entries[key].layers:
                if key in self._entries and layer.on_device:
                    yield key, layer
        if include_in_use and self._building is not None:
            yield from ((None, layer) for layer in self._building.layers if layer.on_device)

    def _evict(self, key: Hashable, layer: Layer) -> None:
        if key in self._idle() and not self._ram.has_room(layer.nbytes):
            self._drop(key)
        else:
            self._to_ram(layer)

    def _to_ram(self, layer: Layer) -> None:
        if self.device != RAM:
            layer.copy = self._ram.copy(layer.tensors)
            layer.tensors = layer.copy.tensors
        layer.on_device = False

    def _to_device(self, tag: Hashable, layer: Layer) -> None:
        layer.tensors = self._stream.take(tag, layer.tensors)
        layer.copy = None
        layer.on_device = True

    def _release_reserve(self) -> None:
        self._reserved = None

    def _drop_over_budget(self, *, resting: bool = False) -> None:
        for key in self._idle(resting=resting):
            if self.held_bytes <= self.budget:
                break
            self._drop(key)

    def _drop_while_ram_is_short(self, size: int) -> None:
        """Of so many bytes."""
        for key in self._idle():
            if self._ram.has_room(size):
                break
            entry = self._entries[key]
            if self.device == RAM or entry.device_bytes < entry.nbytes:
                self._drop(key)

    def _drop(self, key: Hashable) -> None:
        self._stream.forget()
        for layer in self._entries.pop(key).layers:
            if layer.copy is not None:
                layer.copy.release()


def _gib(device_bytes: int) -> str:
    return f"{device_bytes / 2**30:.2f} GiB"
