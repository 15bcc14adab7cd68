"""What a MODEL makes of its references at this moment, as a value that is equal only while that stays the same."""

from __future__ import annotations

import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

_PLAIN = (str, int, float, bool, torch.dtype, type(None))
# The reference pass calls the blocks' parts one by one, and neither these nor what calls them.
_FORWARDS = re.compile(r"diffusion_model\.((double|single)_blocks\.\d+\.)?(forward|_forward|forward_orig)")


class ByValue(ABC):
    """For what nodes of ours put on a model, anew in every execution: equal descriptions compute the same."""

    @property
    @abstractmethod
    def description(self) -> Hashable:
        """All that its result depends on but for its input."""


class Same:
    """Equal to another only if both stand for one object that still lives. Holds no object alive."""

    def __init__(self, thing: object) -> None:
        self._hash = hash((type(thing), id(thing)))
        self._ref = _reference_to(thing)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same):
            return NotImplemented
        mine, theirs = self._ref(), other._ref()
        if isinstance(mine, MethodType):
            return mine == theirs
        return self is other or (mine is not None and mine is theirs)


@dataclass(frozen=True)
class ModelState:
    """A model's weights and all that is patched into them, as far as the reference pass reads it.

    Attributes:
        model: the loaded model; another file is another object.
        patches: the host's name for one stack of LoRAs with their strengths and order.
        objects: parts of the diffusion model that were replaced, the forwards of its blocks left out.
        injections: LoRAs that run beside the weights instead of in them.
    """

    model: Same
    patches: Hashable
    objects: tuple[tuple[str, Hashable], ...]
    injections: tuple[tuple[str, tuple[Same, ...]], ...]


def model_state(patcher: ModelPatcher) -> ModelState:
    """The state the patcher gives its model while it samples."""
    objects = [(name, identity(part)) for name, part in patcher.object_patches.items() if _is_read(name)]
    injections = ((key, tuple(map(Same, added))) for key, added in patcher.injections.items())
    return ModelState(
        model=Same(patcher.model),
        patches=patcher.patches_uuid,
        objects=tuple(sorted(objects, key=_name)),
        injections=tuple(sorted(injections, key=_name)),
    )


def identity(thing: object) -> Hashable:
    """A plain value itself, one of ours by its description, anything else as `Same`."""
    if isinstance(thing, ByValue):
        return type(thing), thing.description
    return (type(thing), thing) if isinstance(thing, _PLAIN) else Same(thing)


def _is_read(name: str) -> bool:
    return name.startswith("diffusion_model") and not _FORWARDS.fullmatch(name)


def _name(pair: tuple[str, Any]) -> str:
    return pair[0]


def _reference_to(thing: object) -> Any:
    if isinstance(thing, MethodType):
        return weakref.WeakMethod(thing)
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: None
