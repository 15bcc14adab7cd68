"""A DoRA among the host's patches of weights.

The host has its own, which divides by the norm of the weight without the LoRA where magnitudes are of rows.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...klein.lora_magnitude import decomposed

if TYPE_CHECKING:
    from comfy.weight_adapter import WeightAdapterBase


def with_magnitude(adapter: WeightAdapterBase, magnitude: Tensor) -> WeightAdapterBase:
    """An adapter of the host whose directions are kept and whose magnitudes are these; see `decomposed`."""
    made: WeightAdapterBase = _kind()(adapter.loaded_keys, (adapter, magnitude))
    return made


@functools.cache
def _kind() -> Any:
    import comfy.weight_adapter

    class DecomposedWeight(comfy.weight_adapter.WeightAdapterBase):
        """Made anew by the host from `loaded_keys` and `weights`, whose tensors it moves."""

        name = "dora"

        def __init__(self, loaded_keys: set[str], weights: tuple[WeightAdapterBase, Tensor]) -> None:
            self.loaded_keys, self.weights = loaded_keys, weights

        def calculate_weight(
            self,
            weight: Tensor,
            key: str,
            strength: float,
            strength_model: float,
            offset: Any,
            function: Any,
            intermediate_dtype: torch.dtype = torch.float32,
            original_weight: Any = None,
        ) -> Tensor:
            adapter, magnitude = self.weights
            more = (strength_model, offset, function, intermediate_dtype, original_weight)
            merged = adapter.calculate_weight(weight.clone(), key, 1.0, *more)
            return weight.add_(decomposed(merged, magnitude.to(weight.device)) - weight, alpha=strength)

    return DecomposedWeight
