"""The eager ops that make a linear layer's input what it multiplies in, as a card has them from its ladder."""

from __future__ import annotations

from klein9b.kernels.eager.gated_residual_norm import gated_residual_norm_fp8_, gated_residual_norm_int8_
from klein9b.kernels.eager.int8_linear import int8_linear
from klein9b.kernels.eager.layer_norm_modulate import layer_norm_modulate_fp8, layer_norm_modulate_int8
from klein9b.kernels.eager.swiglu_concat import swiglu_concat_fp8, swiglu_concat_int8
from klein9b.kernels.ops import Fp8Ops, Int8Ops


def int8_ops():
    return Int8Ops(layer_norm_modulate_int8, gated_residual_norm_int8_, swiglu_concat_int8, int8_linear)


def fp8_ops(change=lambda wanted: wanted):
    """Told of what a layer wants as it was changed."""

    def changed(op):
        return lambda *given: op(*given[:-1], change(given[-1]))

    return Fp8Ops(*map(changed, (layer_norm_modulate_fp8, gated_residual_norm_fp8_, swiglu_concat_fp8)))
