"""The table of implementations: which op, from where, on which card, in which dtype, of which version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from . import kitchen
from .machine import Machine, Version, dtype_name, library, sm_name

Backend = Literal["triton", "kitchen", "eager", "host"]
Op = Callable[..., Any]
Rotation = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Needs:
    """Where an implementation can run; what is left out does not matter.

    Attributes:
        kinds: of `Machine`.
        capability: the oldest card for each dtype that it has.
        package: the library it comes from, to be imported.
        oldest: that library's oldest version known to serve. A newer one than any known is tried.
        off: says why it is turned off, or None.
    """

    kinds: tuple[str, ...] | None = None
    capability: Mapping[torch.dtype, tuple[int, int]] | None = None
    package: str | None = None
    oldest: Version = ()
    off: Callable[[], str | None] | None = None

    def why_not(self, machine: Machine) -> str | None:
        """What is missing, as a sentence that lacks its first word, or None. What costs an import comes last."""
        return self._card(machine) or self._library() or (self.off() if self.off else None)

    def _card(self, machine: Machine) -> str | None:
        if self.kinds is not None and machine.kind not in self.kinds:
            return "needs a GPU" if machine.kind == "cpu" else f"needs an NVIDIA GPU, got {machine.kind}"
        if self.capability is None or machine.capability is None:
            return None
        oldest = self.capability.get(machine.dtype)
        if oldest is None:
            return f"does not serve {dtype_name(machine.dtype)}"
        if machine.capability < oldest:
            return f"needs {sm_name(oldest)} for {dtype_name(machine.dtype)}, got {sm_name(machine.capability)}"
        return None

    def _library(self) -> str | None:
        if self.package is None:
            return None
        there = library(self.package)
        if there.missing:
            return there.missing
        if there.numbers is not None and there.numbers < self.oldest:
            return f"is of version {there.version}, older than {'.'.join(map(str, self.oldest))}"
        return None


@dataclass(frozen=True)
class Rung:
    """One implementation of one op.

    Attributes:
        op: its name in `kernels/eager`.
        load: takes whether every rounding is mirrored, returns the implementation; may raise anything.
    """

    op: str
    backend: Backend
    load: Callable[[bool], Op]
    needs: Needs = field(default_factory=Needs)


def _twin(file: str, op: str, needs: Needs) -> Rung:
    """kernels/triton/<file> is imported when it is wanted: without Triton it raises."""

    def load(exact: bool) -> Op:
        return partial(getattr(import_module(f".triton.{file}", __package__), op), exact=exact)

    return Rung(op, "triton", load, needs)


def _kitchen(op: str, probe: Callable[[], Op], needs: Needs) -> Rung:
    return Rung(op, "kitchen", lambda _exact: probe(), needs)


_TRITON = Needs(
    kinds=("cuda",),
    capability={torch.bfloat16: (8, 0), torch.float16: (7, 5), torch.float32: (7, 5)},
    package="triton",
    oldest=(3, 0),
)
# Triton multiplies int8 on the tensor cores of sm_80 and newer; on older cards it does not compile.
_TRITON_PRODUCT = replace(_TRITON, capability=dict.fromkeys((torch.bfloat16, torch.float16, torch.float32), (8, 0)))
# Below sm_89 Triton has no float8_e4m3fn, and the host no product of it.
_TRITON_FP8 = replace(_TRITON, capability=dict.fromkeys((torch.bfloat16, torch.float16, torch.float32), (8, 9)))
_KITCHEN = Needs(
    kinds=("cuda",),
    capability={torch.bfloat16: (7, 5), torch.float16: (7, 5), torch.float32: (7, 5)},
    package="comfy_kitchen",
    oldest=(0, 2, 24),
    off=kitchen.why_off,
)
_KITCHEN_HALVES = replace(_KITCHEN, capability={torch.bfloat16: (7, 5), torch.float16: (7, 5)})

RUNGS: tuple[Rung, ...] = (
    _twin("layer_norm_modulate", "layer_norm_modulate", _TRITON),
    _kitchen("layer_norm_modulate", kitchen.layer_norm_modulate, _KITCHEN),
    _twin("gated_residual", "gated_residual_", _TRITON),
    _twin("gated_residual_norm", "gated_residual_norm_", _TRITON),
    _twin("heads_norm_rope", "heads_norm_rope", _TRITON),
    _kitchen("heads_norm_rope", kitchen.heads_norm_rope, _KITCHEN_HALVES),
    _twin("swiglu_concat", "swiglu_concat", _TRITON),
    _twin("write_kv", "write_kv_", _TRITON),
    _twin("write_kv", "write_kv_int8_", _TRITON),
    _kitchen("int8_linear", kitchen.int8_linear, _KITCHEN),
    _twin("int8_linear", "int8_linear", _TRITON_PRODUCT),
    _twin("layer_norm_modulate", "layer_norm_modulate_int8", _TRITON),
    _twin("gated_residual_norm", "gated_residual_norm_int8_", _TRITON),
    _twin("swiglu_concat", "swiglu_concat_int8", _TRITON),
    _twin("layer_norm_modulate", "layer_norm_modulate_fp8", _TRITON_FP8),
    _twin("gated_residual_norm", "gated_residual_norm_fp8_", _TRITON_FP8),
    _twin("swiglu_concat", "swiglu_concat_fp8", _TRITON_FP8),
)
