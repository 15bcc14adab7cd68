"""The gated activation of an MLP, behind the attention's output where one matrix takes both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


def swiglu_concat(mlp: Tensor, attended: Tensor | None = None) -> Tensor:
    """attended followed by silu(a) * b, where a and b are the halves of mlp's features and silu(a) = a / (1 + exp(-a)).

    Args:
        mlp: (batch, tokens, 2 * width) in any floating dtype, which the result has too; may be a view.
        attended: (batch, tokens, hidden) of the same dtype, or None for the activation alone.

    Returns:
        (batch, tokens, hidden + width).

    Raises:
        ValueError: mlp has an odd number of features, or attended other tokens.
    """
    if mlp.shape[-1] % 2:
        raise ValueError(f"swiglu_concat: mlp must have two halves, got {mlp.shape[-1]} features.")
    if attended is not None and attended.shape[:-1] != mlp.shape[:-1]:
        raise ValueError(
            f"swiglu_concat: attended must be of mlp's {list(mlp.shape[:-1])} tokens, got {list(attended.shape[:-1])}."
        )
    gate, value = mlp.chunk(2, dim=-1)
    activated = silu(gate) * value
    return activated if attended is None else torch.cat((attended, activated), dim=-1)
