"""Counts the bytes of tensors that live at once while something runs, on any device, the meta device too."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _FusedNorms(TorchFunctionMode):
    """RMS norms as a card's one kernel has them: a copy of a strided input, and the result. Other devices take them
    apart, in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.rms_norm, torch.nn.functional.rms_norm) and args[0].device.type == "meta":
            return torch.empty_like(args[0].contiguous())
        return func(*args, **(kwargs or {}))


class PeakMemory(TorchDispatchMode):
    """Attributes:
    live: bytes of the tensors that operations inside have made and that still live.
    peak: the most of it after any operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._norms = _FusedNorms()

    def __enter__(self) -> PeakMemory:
        self._norms.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._norms.__exit__(kind, error, trace)

    @property
    def live(self) -> int:
        return sum(nbytes for reference, nbytes in self._storages.values() if not reference.expired())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor) and one.untyped_storage()._cdata not in given:
                self._count(one.untyped_storage())
        self._storages = {key: kept for key, kept in self._storages.items() if not kept[0].expired()}
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
