"""Steps and cfg that suit another Klein 9B, said under the loader when a run begins; never refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...klein.training_settings import mistaken_settings
from .loaded_klein import LoadedKlein
from .newer_host import MissingFromHost, needs_host
from .text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

KEY = "klein9b_settings"


def say_mistaken_settings(model: ModelPatcher, loaded: LoadedKlein, node: type[io.ComfyNode]) -> None:
    """Lets the model say so under `node`, and in the log, in each run; not where this host has no place for it."""
    try:
        _watch(model, Settings(loaded, node))
    except MissingFromHost as error:
        log.info("Klein 9B does not check steps and cfg. %s", error)


@needs_host()
def _watch(model: ModelPatcher, settings: Settings) -> None:
    import comfy.patcher_extension

    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kind, KEY, settings.outer_sample)


class Settings:
    """The wrapper around a run. What it said once it takes back in the first run that is as it should be."""

    def __init__(self, loaded: LoadedKlein, node: type[io.ComfyNode]) -> None:
        self.loaded, self.node, self.said = loaded, node, ""

    def outer_sample(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        guider, sigmas = executor.class_obj, kwargs.get("sigmas", args[3] if len(args) > 3 else None)
        cfg = None if hasattr(guider, "cfg2") else getattr(guider, "cfg", None)  # nothing of a guider with several
        if isinstance(cfg, int | float) and sigmas is not None:
            self._say(mistaken_settings(self.loaded.variant, sigmas.shape[-1] - 1, cfg))
        out: Tensor = executor(*args, **kwargs)
        return out

    def _say(self, mistake: str) -> None:
        if mistake:
            log.warning("Klein 9B: %s", mistake)
        if mistake or self.said:
            show_text(self.node, f"CHECK: {mistake}\n\n{self.loaded.summary}" if mistake else self.loaded.summary)
        self.said = mistake
