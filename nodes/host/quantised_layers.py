"""The host's linear layers that multiply in fewer bits, so that their input may be made so before they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def multiplies_as(layer: nn.Module, format: str) -> bool:
    """Whether the matrix is of that format and used as such, by the host's own condition, with nothing hung onto it.

    Later hosts scale the input of some layers first, by `pre_quant_scale`: they do that themselves.
    """
    return getattr(layer, "quant_format", None) == format and _is_left_alone(layer)


def _is_left_alone(layer: Any) -> bool:
    import comfy.quant_ops

    changed = layer.weight_function or layer.bias_function or getattr(layer, "comfy_force_cast_weights", False)
    hung = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    otherwise = layer._full_precision_mm or getattr(layer, "pre_quant_scale", None) is not None
    return isinstance(layer.weight, comfy.quant_ops.QuantizedTensor) and not (changed or hung or otherwise)


@contextmanager
def matrix_of(layer: Any, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, Tensor | None]]:
    """Its matrix in the host's container, and its bias: on that device, LoRAs and all, for a result in that dtype."""
    import comfy.ops

    comfy.ops.run_every_op()  # as the layer's own forward: it stops a run that a person has cancelled
    weight, bias, stream = comfy.ops.cast_bias_weight(
        layer,
        input=None,
        dtype=dtype,
        device=device,
        bias_dtype=dtype,
        offloadable=True,
        compute_dtype=dtype,
        want_requant=True,
    )
    yield weight, bias
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
