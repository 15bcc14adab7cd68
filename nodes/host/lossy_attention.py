"""Attention in 8-bit integers from packages a user may have: sageattention and comfy-kitchen.

Both round queries and keys, so a picture with them is another one. None is needed: what is missing, too old, too new or
made for another card is told in a clause.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor

from ...klein.attention_timing import Attend, first_line

INT8_SINCE = "0.2.29"
SAGE, KITCHEN = "sageattention", "comfy-kitchen"
# Where probabilities times values summed in fp16 overflow into black pictures.
_NEEDS_FP32_SUMS = {(8, 0), (8, 6)}
_HEADS_FIRST = {"tensor_layout": "HND", "is_causal": False}


class NotHere(Exception):
    """This attention cannot run here; the message is a clause that says why."""


@dataclass(frozen=True)
class LossyAttention:
    """An approximate attention.

    Attributes:
        name: with its version; equal names compute the same on one card.
        attend: on (batch, heads, tokens, head_dim); changes none of its inputs.
        traceable: torch.compile takes it into its code as one op.
    """

    name: str
    attend: Attend
    traceable: bool = False

    @property
    def approximate(self) -> str:
        return f"{self.name} rounds queries and keys to 8 bits"


def sage(device: torch.device) -> LossyAttention:
    """SageAttention (arXiv 2410.02367, 2411.10958), with keys less their mean.

    Raises:
        NotHere: no such package, a broken or unknown one, or no GPU.
    """
    _needs_gpu(SAGE, device)
    package, version = _package(SAGE), _version(SAGE)
    summed_in_fp32 = _sage_with_fp32_sums(package, device)
    if summed_in_fp32 is not None:
        return LossyAttention(f"{SAGE} {version} with fp32 sums", summed_in_fp32)
    return LossyAttention(f"{SAGE} {version}", _sage_of_its_choice(package, version))


def kitchen_int8(device: torch.device) -> LossyAttention:
    """comfy-kitchen's int8_attention, which rounds values and probabilities too.

    Raises:
        NotHere: this comfy-kitchen has none, or an unknown one, or not for this device.
    """
    _needs_gpu(f"{KITCHEN}'s int8 attention", device)
    package, version = _package(KITCHEN), _version(KITCHEN)
    attend = getattr(package, "int8_attention", None)
    if attend is None:
        raise NotHere(f"{KITCHEN} {version} has no int8 attention ({INT8_SINCE} and later have it)")
    _needs_arguments(f"int8_attention of {KITCHEN} {version}", attend)
    if not _is_available(getattr(package, "int8_attention_is_available", None), device):
        raise NotHere(f"the int8 attention of {KITCHEN} {version} does not run on this GPU")
    return LossyAttention(f"{KITCHEN} {version} int8 attention", attend, traceable=True)


def _sage_of_its_choice(package: Any, version: str) -> Attend:
    """The kernel that the package takes for the card."""
    sageattn = getattr(package, "sageattn", None)
    if sageattn is None:
        raise NotHere(f"{SAGE} {version} has no sageattn")
    _needs_arguments(f"sageattn of {SAGE} {version}", sageattn, **_HEADS_FIRST)
    if "smooth_k" not in inspect.signature(sageattn).parameters:
        return lambda q, k, v: sageattn(q, k, v, **_HEADS_FIRST)  # Version 2 takes the mean off unasked.
    # Version 1 would take it off in place, out of keys that are kept for later steps.
    return lambda q, k, v: sageattn(q, k - k.mean(dim=2, keepdim=True), v, **_HEADS_FIRST, smooth_k=False)


def _sage_with_fp32_sums(package: Any, device: torch.device) -> Attend | None:
    """On cards that need it, if this package was built with it."""
    if torch.cuda.get_device_capability(device) not in _NEEDS_FP32_SUMS:
        return None
    kernel = getattr(package, "sageattn_qk_int8_pv_fp16_cuda", None)
    built = getattr(getattr(package, "core", None), "SM80_ENABLED", False)
    options = {**_HEADS_FIRST, "pv_accum_dtype": "fp32", "smooth_k": True}
    if kernel is None or not built or not _takes(kernel, **options):
        return None
    return lambda q, k, v: kernel(q, k, v, **options)


def _needs_gpu(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise NotHere(f"{name} needs an NVIDIA or AMD GPU and the model runs on {device.type}")


def _package(name: str) -> Any:
    try:
        return import_module(name.replace("-", "_"))
    except ModuleNotFoundError as error:
        if error.name == name.replace("-", "_"):
            raise NotHere(f"{name} is not installed") from error
        raise NotHere(f"{name} needs {error.name}, which is not installed") from error
    except Exception as error:
        raise NotHere(f"{name} cannot be imported ({first_line(error)})") from error


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _needs_arguments(name: str, function: Callable[..., Tensor], **options: Any) -> None:
    if not _takes(function, **options):
        raise NotHere(f"{name} does not take the arguments that Klein 9B knows")


def _takes(function: Callable[..., Tensor], **options: Any) -> bool:
    """Whether it can be called with q, k, v and these options."""
    try:
        inspect.signature(function).bind(None, None, None, **options)
    except (TypeError, ValueError):
        return False
    return True


def _is_available(ask: Callable[..., bool] | None, device: torch.device) -> bool:
    """What the package says of itself; one that says nothing is tried."""
    if ask is None:
        return True
    return bool(ask(device) if inspect.signature(ask).parameters else ask())
