"""Which ops a MODEL's blocks compute with, found on its device at the first use."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...kernels.ladder import LadderOps, ops_for
from ...kernels.ops import Ops
from . import fp8_layers, int8_layers
from .block_functions import host_rope

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)

_NAMES = {"triton": "Triton", "kitchen": "comfy_kitchen", "eager": "torch"}


class Profile(str, Enum):
    """How ops round: as the host's own code does, or once at their end."""

    EXACT = "exact"
    FAST = "fast"


class ChosenOps:
    """A tensor of the model's -> the ops for it; and what was chosen last.

    Attributes:
        int8, fp8: the model has int8 or float8 matrices.
    """

    def __init__(self, profile: Profile, model: ModelPatcher) -> None:
        self.profile = profile
        self.int8, self.fp8 = (
            has_layers(model.model.diffusion_model, format) for format in (int8_layers.FORMAT, fp8_layers.FORMAT)
        )
        self._found: LadderOps | None = None
        self._logged: set[str] = set()

    def __call__(self, like: Tensor) -> Ops:
        exact = self.profile is Profile.EXACT
        found = ops_for(like, exact=exact, rotation=host_rope(), int8=self.int8, fp8=self.fp8)
        if found is not self._found:
            self._found = found
            self._log(found.table)
        return found.ops

    def _log(self, table: str) -> None:
        """Once each: a model on several devices takes turns among them."""
        if table not in self._logged:
            self._logged.add(table)
            log.info("Klein 9B Accelerate, %s profile:\n%s", self.profile.value, table)

    @property
    def description(self) -> Hashable:
        return self.profile.value, self.int8, self.fp8

    @property
    def summary(self) -> str:
        """Who computes, how many give the bits of ComfyUI's own code, and why none is on Triton where none is."""
        choices = [one for one in self._found.choices if one.backend != "host"] if self._found else []
        if not choices:
            return ""
        backends = Counter(one.backend for one in choices)
        if set(backends) == {"eager"}:
            return f"in torch alone: {choices[0].reason}"
        counted = ", ".join(f"{count} on {_NAMES[name]}" for name, count in backends.most_common())
        same = f"{counted}; {sum(one.exact for one in choices)} of {len(choices)} ops with ComfyUI's own bits"
        without = [one.reason for one in choices if one.backend == "eager" and "triton" not in backends]
        return ". ".join([same, *without[:1]])


def has_layers(model: Any, format: str) -> bool:
    """Whether any of its matrices are of that format."""
    return any(getattr(part, "quant_format", None) == format for part in model.modules())
