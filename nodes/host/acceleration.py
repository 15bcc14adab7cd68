"""Klein's blocks evaluated by ours over faster ops, hung onto a MODEL through the host's wrappers.

A block that something foreign has a hand in is left to the host's own; the others are not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ...klein.transformer import BlockFunctions
from .accelerated_blocks import AcceleratedBlocks
from .as_written import is_as_written
from .block_functions import host_functions, reached_for
from .cache_blocks import reach_blocks
from .model_state import ByValue
from .own_blocks import ACCELERATION
from .position_tables import PositionTables, tables_key
from .step_aside import model_unfit_because

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

TIMESTEP_ZERO = "index_timestep_zero"
MLP_ROWS = 4608  # one picture of a megapixel, its text with it
WIDEST = 15  # times a block's input: its first layer makes 9 of it, attention 1, the activation beside that 4


class Report:
    """What one run came to.

    Attributes:
        accelerated: how many blocks ours have evaluated.
        left: what was left to the host's own code, and why.
    """

    def __init__(self) -> None:
        self.accelerated = 0
        self.left: dict[str, str] = {}

    def leave(self, what: str, reason: str) -> None:
        """Says so in the log, once a run."""
        clause = reason.removesuffix(".")
        if self.left.get(what) != clause:
            log.info("Klein 9B Accelerate leaves %s to ComfyUI's own code: %s.", what, clause)
        self.left[what] = clause


class Acceleration(ByValue):
    """What a MODEL is accelerated by. Lies among its transformer_options, where the reference cache finds it.

    Attributes:
        choose: a tensor of the model's -> the ops for its device and dtype.
        described: equal only where `choose` computes the same.
        show: is told what a run came to, and what it computed with.
    """

    def __init__(self, choose: Callable[[Tensor], Ops], described: Hashable, show: Callable[[Report], None]) -> None:
        self.choose = choose
        self.described = described
        self.show = show
        self._runs: list[Report] = []
        self._free: int | None = None
        self._chosen: dict[tuple[torch.device, torch.dtype], Ops] = {}  # asked for once an evaluation
        self._tables = PositionTables()

    @property
    def description(self) -> Hashable:
        return self.described

    def functions(self, options: dict[str, Any], like: Tensor) -> BlockFunctions:
        """What blocks borrow. The host's compiler fuses eager ops itself."""
        if torch.compiler.is_compiling():
            return host_functions(options)
        at = like.device, like.dtype
        if at not in self._chosen:
            self._chosen[at] = self.choose(like)
        return host_functions(options, self._chosen[at], mlp_rows(like, self._free))

    def outer_sample(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        """Around a run."""
        report = Report()
        self._runs.append(report)
        try:
            made: Tensor = executor(*args, **kwargs)
        finally:
            self._runs.remove(report)
            self._tables.forget()
        self.show(report)
        return made

    def diffusion_model(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        """Around the diffusion model, within what other nodes put around it behind ours: that may change what it is
        given. The reference cache's alone stays inside, as it looks for our blocks."""
        later = executor.wrappers[executor.idx + 1 :]
        others = [one for one in later if one is not reach_blocks]
        if torch.compiler.is_compiling() or not others:
            return self._evaluated(executor, *args, **kwargs)
        inside = [one for one in later if one is reach_blocks]
        executor.wrappers[executor.idx + 1 :] = [*others, self._evaluated, *inside]
        made: Tensor = executor(*args, **kwargs)
        return made

    def _evaluated(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: list[Tensor] | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
        **kwargs: Any,
    ) -> Tensor:
        """Puts our blocks in place."""
        options = transformer_options
        if not torch.compiler.is_compiling():
            method = kwargs.get("ref_latents_method", executor.class_obj.params.default_ref_method)
            key = tables_key(executor.class_obj, x, context, ref_latents, method, options)
            kept = None if control else x.shape[-2] * x.shape[-1]
            options = self._with_blocks(executor.class_obj, x, ref_latents and method, key, kept, options)
        return executor(x, timestep, context, y, guidance, ref_latents, control, options, **kwargs)

    def _with_blocks(
        self,
        model: Any,
        x: Tensor,
        method: Any,
        key: Hashable | None,
        picture: int | None,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        report = self._runs[-1] if self._runs else Report()
        unfit = _unfit_because(model, x, method)
        if unfit is not None:
            report.leave("every block", unfit)
            return options
        self._free, self._chosen = _free_bytes(x.device), {}
        return AcceleratedBlocks(self.functions, report, self._tables, key, picture).options(model, options)


def accelerated(model: ModelPatcher, acceleration: Acceleration) -> ModelPatcher:
    """A clone with our blocks; the model itself stays as it was. Replaces an earlier acceleration.

    What blocks need of the host is looked up here: it must not be missed in the middle of a run.
    """
    import comfy.model_management
    import comfy.patcher_extension

    _ = reached_for(), comfy.model_management.in_training
    clone = model.clone()
    for kind, wrapper in (
        (comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, acceleration.outer_sample),
        (comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, acceleration.diffusion_model),
    ):
        clone.remove_wrappers_with_key(kind, ACCELERATION)
        clone.add_wrapper_with_key(kind, ACCELERATION, wrapper)
    clone.model_options["transformer_options"][ACCELERATION] = acceleration
    return clone


def unfit_because(model: ModelPatcher) -> str | None:
    """Why a MODEL cannot be accelerated at all."""
    return model_unfit_because(model.get_model_object("diffusion_model"))


def mlp_rows(x: Tensor, free: int | None) -> int | None:
    """How many of a block's tokens at a time go through its MLP, in even parts; None for all of them.

    A few thousand keep a card busy; more at once only take memory. Where a card has no room for that, half as many.

    Args:
        free: bytes on the device, None where nobody counts.
    """
    tokens = x.shape[1]
    most = MLP_ROWS // 2 if free is not None and free < WIDEST * x.nbytes else MLP_ROWS
    parts = math.ceil(tokens / most)
    return None if parts <= 1 else math.ceil(tokens / parts)


def _free_bytes(device: torch.device) -> int | None:
    import comfy.model_management

    return int(comfy.model_management.get_free_memory(device)) if device.type == "cuda" else None


def _unfit_because(model: Any, x: Tensor, method: Any) -> str | None:
    """Why an evaluation is left to the host. method: by which references are placed, where there are some."""
    import comfy.model_management

    if method == TIMESTEP_ZERO:
        return "references at timestep zero have a modulation of their own (Klein 9B Reference Cache takes them)"
    if comfy.model_management.in_training or x.requires_grad:
        return "the model is being trained"
    return model_unfit_because(model) or _other_loop(model)


def _other_loop(model: Any) -> str | None:
    """What goes from block to block is ours to know only where the host's own loop runs them."""
    import comfy.ldm.flux.model

    loop = ("_forward", "forward_orig")
    changed = next((name for name in loop if not is_as_written(comfy.ldm.flux.model.Flux, name, model)), None)
    return f"another pack has changed the host's Flux.{changed}" if changed else None
