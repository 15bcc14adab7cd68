"""The references' keys and values as something the host can count, offload and free like a model."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...klein.kv_store import ReferenceStore
from ...klein.ram import RAM, Ram

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "klein9b_reference_cache"
LEAST_FREE_RAM = 2 * 2**30


class ReferenceKeysValues(torch.nn.Module):
    """Has no parameters; the host names it in its log."""

    device: torch.device | None = None


class ReferenceMemory:
    """A store behind the host's interface for models on a device; `reference_memory` puts the host's class behind it.

    A model's clones and all later runs share it, so cloning returns itself. Loading sets how much may lie on the
    device, unloading moves to RAM; what a run uses is never lost by either.

    Attributes:
        loads_beside_dynamic: while the host loads it with weights that fault themselves in. It would otherwise unload
            every other model, pinned RAM included, to make room for all of them at once.
    """

    loads_beside_dynamic = False

    model: torch.nn.Module
    load_device: torch.device
    offload_device: torch.device
    get_free_memory: Callable[[torch.device], int]

    def __init__(self, load_device: torch.device, offload_device: torch.device) -> None:
        self.store = ReferenceStore(load_device, host_ram())
        super().__init__(ReferenceKeysValues(), load_device, offload_device)  # type: ignore[call-arg]

    def is_dynamic(self) -> bool:
        return self.loads_beside_dynamic

    def model_size(self) -> int:
        return self.store.wanted_bytes

    def loaded_size(self) -> int:
        return self.store.device_bytes

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def clone(self, *_: object, **__: object) -> ReferenceMemory:
        return self

    def deepclone_multigpu(self, *_: object, **__: object) -> ReferenceMemory:
        return self

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        before = self.store.device_bytes
        self.store.allow(int(min(before + extra_memory + self._evictable(device_to), sys.maxsize)))
        return self.store.device_bytes - before

    def _evictable(self, device: torch.device) -> int:
        """Bytes of dynamically loaded weights, which make way by themselves for whatever is allocated."""
        import comfy.model_management

        return self.get_free_memory(device) - comfy.model_management.get_free_memory(device)

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        return self.store.offload(int(min(memory_to_free, sys.maxsize)))

    def make_way(self) -> None:
        """As the store's, after the device ran out of memory."""
        self.store.make_way(int(self.get_free_memory(self.load_device)))

    @contextmanager
    def beside(self, patcher: ModelPatcher) -> Iterator[None]:
        """While the host loads it with this one."""
        self.loads_beside_dynamic = patcher.is_dynamic()
        try:
            yield
        finally:
            self.loads_beside_dynamic = False

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        if unpatch_all:
            self.store.offload(self.store.device_bytes)
        return self.model


def host_ram() -> Ram:
    """As the host shares it out: by its own count of pinned pages, and short of it where its own weights find it short.

    Pins are taken of what is left of the host's limit. For more it would unpin weights of the running model, and it
    never takes ours back. See ensure_pin_budget and ensure_pin_registerable in ComfyUI's model_management.
    """
    import comfy.memory_management
    import comfy.model_management

    free_memory = comfy.model_management.get_free_memory
    pin_memory = comfy.model_management.pin_memory

    def kept_free() -> float:
        return max(comfy.memory_management.RAM_CACHE_HEADROOM / 2, LEAST_FREE_RAM)

    def room() -> int:
        return int(free_memory(RAM) - kept_free())

    def pins_left() -> float:
        return comfy.model_management.MAX_PINNED_MEMORY - comfy.model_management.TOTAL_PINNED_MEMORY

    def pin(tensor: Tensor) -> bool:
        return min(room(), pins_left()) >= tensor.nbytes and pin_memory(tensor)

    kept_free(), pins_left()  # asked now: what is missing must be told while a run can still step aside
    return Ram(pin, comfy.model_management.unpin_memory, room)


def reference_memory(load_device: torch.device, offload_device: torch.device) -> ReferenceMemory:
    """An empty one, which is a ModelPatcher to the host."""
    import comfy.model_patcher

    return _behind(comfy.model_patcher.ModelPatcher)(load_device, offload_device)


@functools.cache
def _behind(patcher: type) -> type[ReferenceMemory]:
    return type("ReferenceMemory", (ReferenceMemory, patcher), {})


class _Memories:
    """One memory a model, gone with it."""

    def __init__(self) -> None:
        self._by_model: weakref.WeakKeyDictionary[Any, ReferenceMemory] = weakref.WeakKeyDictionary()

    def of(self, patcher: ModelPatcher) -> ReferenceMemory:
        memory = self._by_model.get(patcher.model)
        if memory is None or memory.load_device != patcher.load_device:
            memory = reference_memory(patcher.load_device, patcher.offload_device)
            self._by_model[patcher.model] = memory
        return memory

    def beside(self, patcher: ModelPatcher, *, wanted: bool) -> None:
        """Lets the host load the model's memory beside it from now on, or no more where the run wants none of it.

        What is not wanted there is evicted like any other model's.
        """
        if wanted:
            patcher.set_additional_models(KEY, [self.of(patcher)])
        else:
            patcher.remove_additional_models(KEY)


memories = _Memories()
