"""The references' keys and values as something the host can count, offload and free like a model."""

from __future__ import annotations

import functools
import sys
import weakref
from typing import TYPE_CHECKING, Any

import torch

from ...klein.kv_store import ReferenceStore

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "klein9b_reference_cache"


class ReferenceKeysValues(torch.nn.Module):
    """Has no parameters; the host names it in its log."""

    device: torch.device | None = None


class ReferenceMemory:
    """A store behind the host's interface for models on a device; `reference_memory` puts the host's class behind it.

    A model's clones and all later runs share it, so cloning returns itself. Loading sets how much may lie on the
    device, unloading moves to RAM; nothing is ever lost by either.
    """

    model: torch.nn.Module
    load_device: torch.device
    offload_device: torch.device

    def __init__(self, load_device: torch.device, offload_device: torch.device) -> None:
        self.store = ReferenceStore(load_device)
        super().__init__(ReferenceKeysValues(), load_device, offload_device)  # type: ignore[call-arg]

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
        self.store.allow(int(min(before + extra_memory, sys.maxsize)))
        return self.store.device_bytes - before

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        return self.store.offload(int(min(memory_to_free, sys.maxsize)))

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        if unpatch_all:
            self.store.offload(self.store.device_bytes)
        return self.model


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

    def beside(self, patcher: ModelPatcher) -> ReferenceMemory:
        """The memory of the patcher's model, which the host from now on loads beside it."""
        memory = self.of(patcher)
        patcher.set_additional_models(KEY, [memory])
        return memory


memories = _Memories()
