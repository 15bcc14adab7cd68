"""A LoRA stack by its contents, so that it is known again after a restart."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

MOST_BYTES = 2 << 30
_REMEMBERED = 64
_PLAIN = (str, int, float, bool, bytes, type(None))
_digests: OrderedDict[Hashable, str] = OrderedDict()


class UnknownPatch(ValueError):
    """A patch that is code, or too large to be read each time: only the host's own name for it tells it apart."""


def patches_digest(patcher: ModelPatcher) -> str:
    """Equal for the same tensors and strengths on the same weights in the same order; empty without any.

    Raises:
        UnknownPatch: one of them is not made of tensors and numbers.
    """
    if not patcher.patches:
        return ""
    if patcher.patches_uuid not in _digests:
        _digests[patcher.patches_uuid] = _digest(patcher.patches)
        while len(_digests) > _REMEMBERED:
            _digests.popitem(last=False)
    return _digests[patcher.patches_uuid]


def _digest(patches: dict[str, Any]) -> str:
    parts = [part for name in sorted(patches) for part in (name, *_parts(patches[name]))]
    if sum(part.nbytes for part in parts if isinstance(part, torch.Tensor)) > MOST_BYTES:
        raise UnknownPatch("it is too large")
    content = hashlib.sha256()
    for part in parts:
        value = _bytes(part) if isinstance(part, torch.Tensor) else repr(part).encode()
        content.update(b"%d:" % len(value))  # where one ends and the next begins
        content.update(value)
    return content.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """Plain values and tensors, in an order that tells apart how they are nested."""
    if isinstance(value, torch.Tensor):
        yield from (str(value.dtype), tuple(value.shape), value)
    elif isinstance(value, _PLAIN):
        yield value
    elif isinstance(value, (tuple, list)):
        yield from ("(", *(part for one in value for part in _parts(one)), ")")
    elif _is_adapter(value):
        yield from (type(value).__name__, *_parts(value.weights))
    else:
        raise UnknownPatch(f"it is a {type(value).__name__}")


def _is_adapter(value: Any) -> bool:
    import comfy.weight_adapter

    return isinstance(value, comfy.weight_adapter.WeightAdapterBase)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
