"""The host's attention, position rotation, norms and linear layers, as Klein's blocks borrow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.eager.heads_norm_rope import RmsNorm, heads_norm_rope
from ...kernels.fp8 import Fp8Rows
from ...kernels.int8 import Int8Rows
from ...kernels.ops import Int8Ops, Ops
from ...klein.transformer import Activation, BlockFunctions, Features, Wanted
from .attention_choice import KEY, AttentionOverride
from .fp8_layers import fp8_input, fp8_linear, fp8_linear_features, is_fp8
from .int8_layers import int8_input, int8_linear, int8_linear_features


def host_functions(
    transformer_options: dict[str, Any], ops: Ops | None = None, mlp_rows: int | None = None
) -> BlockFunctions:
    """With the attention these options choose, or else the one that later hosts let a block prefer.

    Args:
        ops: what the blocks compute with; the eager ones, with the host's rotation, by default.
        mlp_rows: as of `BlockFunctions`.
    """
    import comfy.ldm.flux.math

    attend = comfy.ldm.flux.math.attention
    ops = ops or eager_ops()

    def attention(q: Tensor, k: Tensor, v: Tensor, block: Any) -> Tensor:
        preferred = getattr(block, "comfy_attention", None)
        wish = {} if preferred is None else {"preferred_attention": preferred}
        return attend(q, k, v, pe=None, transformer_options=transformer_options, **wish)

    return BlockFunctions(
        attention=attention,
        norm=norm,
        linear=partial(linear, ops=ops),
        linear_features=partial(linear_features, ops=ops),
        wanted=wanted,
        divisible=partial(is_divisible, ops=ops),
        ops=ops,
        mlp_rows=mlp_rows,
        every_query=not isinstance(transformer_options.get(KEY), AttentionOverride | None),
    )


def eager_ops() -> Ops:
    """In plain torch, which is what the host does, but for the rotation, which is the host's own."""
    return Ops(heads_norm_rope=partial(heads_norm_rope, rotation=host_rope()))


def host_rope() -> Callable[[Tensor, Tensor], Tensor]:
    """As `kernels.eager.rope`."""
    import comfy.ldm.flux.math

    rotate: Callable[[Tensor, Tensor], Tensor] = comfy.ldm.flux.math.apply_rope1
    return rotate


def reached_for() -> tuple[object, ...]:
    """What these functions look up in the host while blocks run, for whoever must know beforehand that it is there."""
    import comfy.ldm.flux.math
    import comfy.ops
    import comfy.quant_ops

    return (
        comfy.ldm.flux.math.attention,
        comfy.ldm.flux.math.apply_rope1,
        comfy.ops.cast_bias_weight,
        comfy.ops.uncast_bias_weight,
        comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights,
        comfy.quant_ops.QuantizedTensor,
    )


def plain(tensor: Any) -> Tensor:
    """A tensor, also out of the container in which later hosts hand one to attention, to be taken once."""
    return tensor if isinstance(tensor, Tensor) else tensor.take()


def norm(module: Any, like: Tensor) -> RmsNorm:
    """The weight as the host's own norm would use it: cast where that casts, patches and all."""
    if not (module.comfy_cast_weights or module.weight_function or module.bias_function):
        return RmsNorm(module.weight, module.eps)
    import comfy.ops

    weight, bias, stream = comfy.ops.cast_bias_weight(module, like, offloadable=True)
    kept = weight if weight is module.weight else weight.clone()  # The next cast may reuse a cast one's memory.
    comfy.ops.uncast_bias_weight(module, weight, bias, stream)
    return RmsNorm(kept, module.eps)


def wanted(layer: nn.Module, x: Tensor) -> Wanted | None:
    """How the layer wants an input of x's device and dtype, None for one as it is."""
    return int8_input(layer) or fp8_input(layer, x)


def linear(layer: nn.Module, x: Activation, *, ops: Ops) -> Tensor:
    """The layer itself, or its matrix product alone where the input is int8 or float8 already."""
    if isinstance(x, Int8Rows):
        return int8_linear(layer, x, _int8(ops))
    if isinstance(x, Fp8Rows):
        return fp8_linear(layer, x)
    made: Tensor = layer(x)
    return made


def linear_features(layer: nn.Module, x: Activation, wanted: Sequence[Features], *, ops: Ops) -> list[Tensor]:
    """Computes only the wanted features where the layer can; any other is called once, as a whole."""
    if isinstance(x, Int8Rows):
        return int8_linear_features(layer, x, wanted, _int8(ops))
    if isinstance(x, Fp8Rows):
        return fp8_linear_features(layer, x, wanted)
    if not is_plain(layer):
        whole = layer(x)
        return [one.tokens.of(whole)[..., one.start : one.stop] for one in wanted]
    import comfy.ops

    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    outputs = []
    for one in wanted:
        part = slice(one.start, one.stop)
        outputs.append(nn.functional.linear(one.tokens.of(x), weight[part], None if bias is None else bias[part]))
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return outputs


def is_divisible(layer: nn.Module, *, ops: Ops) -> bool:
    """Whether `linear_features` computes the wanted features alone."""
    in_int8 = ops.int8 is not None and int8_input(layer) is not None
    in_fp8 = ops.fp8 is not None and is_fp8(layer)
    return in_int8 or in_fp8 or is_plain(layer)


def _int8(ops: Ops) -> Int8Ops:
    assert ops.int8 is not None, "only these ops make an input int8"
    return ops.int8


def is_plain(linear: nn.Module) -> bool:
    """Whether the layer is one matrix product with an ordinary matrix, with nothing hung onto it."""
    import comfy.ops
    import comfy.quant_ops

    plain_forward, own = comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights, type(linear)
    return (
        getattr(own, "forward_comfy_cast_weights", None) is plain_forward
        and own.forward.__module__ == plain_forward.__module__
        and not is_hung_onto(linear)
        and not isinstance(linear.weight, comfy.quant_ops.QuantizedTensor)
        and isinstance(linear.weight, Tensor)
        and torch.is_floating_point(linear.weight)
    )


def is_hung_onto(module: nn.Module) -> bool:
    """Whether calling the module does more, or something else, than its class says."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)
