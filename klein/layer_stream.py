"""Copies one layer from RAM to the device while the layer before it is at work."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Flight:
    tag: Hashable
    tensors: Tensors
    landed: torch.cuda.Event


class LayerStream:
    """One copy ahead on a CUDA stream of its own; elsewhere a plain copy when asked."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._flight: _Flight | None = None

    def start(self, tag: Hashable, tensors: Tensors) -> None:
        """Begins copying `tensors`, to be taken under `tag`. Only the latest copy is kept."""
        if self._stream is None:
            return
        self.forget()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            copies = tuple(t.to(self.device, non_blocking=True) for t in tensors)
            self._flight = _Flight(tag, copies, self._stream.record_event())

    def take(self, tag: Hashable, tensors: Tensors) -> Tensors:
        """`tensors` on the device: the copy started under this tag, or a new one."""
        flight = self._landed()
        if flight is None or flight.tag != tag:
            return tuple(t.to(self.device) for t in tensors)
        for tensor in flight.tensors:
            tensor.record_stream(torch.cuda.current_stream(self.device))
        return flight.tensors

    def forget(self) -> None:
        """Frees a copy that nobody took. What it was copied from may be freed then, too."""
        self._landed()

    def _landed(self) -> _Flight | None:
        flight, self._flight = self._flight, None
        if flight is not None:
            # Waiting here, not on the device, keeps the host from running ahead and filling it with copies.
            flight.landed.synchronize()
        return flight
