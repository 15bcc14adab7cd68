"""Which photograph of a list is being sampled, said under the node that the list came from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from .newer_host import MissingFromHost, needs_host
from .text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

KEY = "klein9b_list"


def with_progress(
    model: ModelPatcher, names: Sequence[str], node: type[io.ComfyNode], told: Sequence[str]
) -> ModelPatcher:
    """A clone that says under the node which of the names is being sampled; `told` stands there otherwise.

    The model itself where this host has no place for that.
    """
    try:
        return _telling(model, names, node, told)
    except MissingFromHost as error:
        log.info("Klein 9B Folder does not say which photograph is being edited. %s", error)
        return model


@needs_host()
def _telling(model: ModelPatcher, names: Sequence[str], node: type[io.ComfyNode], told: Sequence[str]) -> ModelPatcher:
    import comfy.patcher_extension

    def outer_sample(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        place = _place()
        if place is not None and place < len(names):
            show_text(node, "\n".join([f"Editing {place + 1} of {len(names)}: {names[place]}", *told]))
        out: Tensor = executor(*args, **kwargs)
        if place == len(names) - 1:
            show_text(node, "\n".join(told))
        return out

    clone = model.clone()
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    clone.remove_wrappers_with_key(kind, KEY)
    clone.add_wrapper_with_key(kind, KEY, outer_sample)
    return clone


def _place() -> int | None:
    """Of what is being run in its list; None where this ComfyUI does not say."""
    try:
        return _list_index()
    except MissingFromHost:
        return None


@needs_host()
def _list_index() -> int | None:
    import comfy_execution.utils

    context = comfy_execution.utils.get_executing_context()
    return context.list_index if context is not None else None
