"""Ops from comfy_kitchen, in the signatures of kernels/eager. Each function probes for one and hands it out.

It moves fast, and the host decides which version is there and which of its backends are on. A function that is gone or
takes other arguments is said (`Unfit`), never an error in the middle of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from .eager.heads_norm_rope import RmsNorm
from .eager.heads_norm_rope import heads_norm_rope as split_heads
from .eager.layer_norm_modulate import EPS
from .int8 import Int8Rows, Int8Weight
from .machine import Unfit, first_line
from .shapes import check_modulation

_CATCH_ALL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def why_off() -> str | None:
    """Why its CUDA backend does not serve: the host turns it off for a torch before CUDA 13."""
    try:
        registry = import_module("comfy_kitchen").registry
        if registry.is_available("cuda"):
            return None
        told = registry.list_backends().get("cuda", {})
    except Exception as error:
        return f"does not tell of its backends: {first_line(error)}"
    return f"has its CUDA backend off: {told.get('unavailable_reason') or 'the host has disabled it'}"


def layer_norm_modulate() -> Callable[..., Tensor]:
    """`adaln`: one pass, rounded once at the end. It has no int8 output."""
    adaln = _function(import_module("comfy_kitchen"), "adaln", "x", "scale", "shift", "eps")

    def layer_norm_modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
        return adaln(x, scale, shift, EPS)

    return layer_norm_modulate


def heads_norm_rope() -> Callable[..., tuple[Tensor, ...]]:
    """`rms_rope1` of each part: norm and rotation in one pass. It writes nowhere else: `out` takes a copy."""
    rms_rope = _function(import_module("comfy_kitchen"), "rms_rope1", "x", "freqs_cis", "scale", "epsilon")

    def heads_norm_rope(
        packed: Tensor,
        norms: Sequence[RmsNorm | None],
        freqs: Tensor,
        heads: int,
        *,
        out: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, ...]:
        parts = split_heads(packed, [None] * len(norms), freqs, heads)
        made = tuple(
            part if norm is None else rms_rope(part, freqs, norm.weight, _eps(norm))
            for part, norm in zip(parts, norms, strict=True)
        )
        return made if out is None else tuple(m if o is None else o.copy_(m) for m, o in zip(made, out, strict=True))

    return heads_norm_rope


def int8_linear() -> Callable[[Int8Rows, Int8Weight, torch.dtype], Tensor]:
    """The product behind `int8_linear`, which itself takes activations that are not int8 yet.

    No public function takes rows that are int8 already. This one, which its 4-bit weights use once unpacked, picks
    among CUTLASS, cuBLAS and Turing's kernels, pads, and knows what its extension takes in each version.
    """
    names = ("x_int8", "weight_int8", "x_scale", "weight_scale", "bias", "out_dtype")
    product = _function(import_module("comfy_kitchen.backends.cuda"), "_int4_linear_via_int8_values", *names)

    def int8_linear(rows: Int8Rows, weight: Int8Weight, dtype: torch.dtype) -> Tensor:
        if rows.rotation != weight.rotation:
            raise ValueError(
                f"int8_linear: activations are rotated by {rows.rotation}, the matrix by {weight.rotation}: "
                "expected the same."
            )
        batch, tokens, features = rows.levels.shape
        scales = weight.scale.reshape(-1).expand(weight.levels.shape[0])
        made = product(rows.levels.reshape(-1, features), weight.levels, rows.scale, scales, None, dtype)
        return made.reshape(batch, tokens, -1)

    return int8_linear


def fp8_is_rounded(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether its torch code would make float8 of such activations, see `eager.fp8_rows`, and not one of its kernels.

    One that does not tell is taken to have a kernel: dividing in float32 is the nearer to the truth of the two.
    """
    scale = torch.ones((), dtype=torch.float32, device=device)
    given = {"x": scale.to(dtype), "scale": scale, "output_type": torch.float8_e4m3fn}
    try:
        chosen = import_module("comfy_kitchen").registry.get_capable_backend("quantize_per_tensor_fp8", given)
    except Exception:
        return False
    return bool(chosen == "eager")


def _eps(norm: RmsNorm) -> float:
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


def _function(owner: Any, name: str, *parameters: str) -> Callable[..., Any]:
    """A function whose first parameters have these names, and whose others can be left out."""
    function = getattr(owner, name, None)
    if function is None:
        raise Unfit(f"has no {name}")
    found = list(signature(function).parameters.values())
    more = [one for one in found[len(parameters) :] if one.default is one.empty and one.kind not in _CATCH_ALL]
    if [one.name for one in found[: len(parameters)]] != list(parameters) or more:
        raise Unfit(f"has {name}{signature(function)}, expected ({', '.join(parameters)})")
    return function
