"""One sampling run with the exact reference cache, hung onto a MODEL through the host's wrappers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...kernels.eager.append_kv import KeyValue
from ...klein.kv_cache import PositionedReference, ReferenceRows, ReferenceRun, RunReport
from ...klein.kv_pass import reference_keys_values
from ...klein.kv_store import NoRoomAnywhere, Placement, Storage, bytes_per_token
from ...klein.tiles import Tiles
from .attention_parts import KEY as PARTS
from .cache_blocks import References, own_places, with_references
from .cache_memory import ReferenceMemory, memories
from .evaluation import Evaluation
from .model_state import ModelState, identity, model_state
from .newer_host import MissingFromHost, needs_host
from .own_blocks import ACCELERATION, functions_by, places
from .reference_pictures import reference_rows
from .step_aside import evaluation_unfit_because, run_unfit_because, step_aside
from .tile_options import WHERE, Tile, tiles_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

GIB = 2**30
Evaluate = Callable[[dict[str, Any], dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Settings:
    """What the node was told.

    Attributes:
        budget: bytes kept between runs; 0 keeps nothing.
        approximate: why the weights make the result approximate, empty where they do not.
        show: puts text under the node.
    """

    storage: Storage
    budget: int
    approximate: str
    show: Callable[[str], None]
    placement: Placement = Placement.AUTO


class SteppedAside(Exception):
    """The stock path must run, but the cache has answered already: the run starts over, or it would be half of each."""


class CachedReferences:
    """The wrappers: around a run, to know its weights and size, its loading, and every evaluation of the model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._runs: list[SamplingRun] = []

    def outer_sample(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        try:
            run = SamplingRun(self.settings, guider, args[0].shape)
        except MissingFromHost as error:
            self.settings.show(f"stock path: {step_aside(error)}")
            return executor(*args, **kwargs)
        conds = {kind: [cond.copy() for cond in each] for kind, each in guider.conds.items()}
        self._runs.append(run)
        try:
            return executor(*args, **kwargs)
        except SteppedAside:
            guider.conds = conds
            return executor(*args, **kwargs)
        finally:
            self._runs.remove(run)
            run.finish()

    def prepare_sampling(self, executor: WrapperExecutor, model: ModelPatcher, *args: Any, **kwargs: Any) -> Any:
        if not self._runs:
            return executor(model, *args, **kwargs)
        with self._runs[-1].memory.beside(model):
            return executor(model, *args, **kwargs)

    def apply_model(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
        **conds: Any,
    ) -> Tensor:
        def evaluate(options: dict[str, Any], conds: dict[str, Any]) -> Tensor:
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)

        if conds.get("ref_latents") and self._runs:
            evaluation = Evaluation(executor.class_obj, x, transformer_options, conds)
            out = self._runs[-1].answer(evaluation, evaluate)
            if out is not None:
                return out
        return evaluate(transformer_options, conds)


class SamplingRun:
    """From the moment a guider starts until it has finished.

    Attributes:
        model: the host's, of whose weights the run knows.
        unfit: why no evaluation of this run can use the cache.
        refused: why the stock path runs, once it does.
        tokens: of all references that one picture may use, at once where it is painted in tiles.
        answered: the cache has served an evaluation.
        honoured: every block has asked for the references' keys and values in some evaluation.

    Args:
        shape: of the latent.
    """

    @needs_host()
    def __init__(self, settings: Settings, guider: Any, shape: Sequence[int]) -> None:
        patcher = guider.model_patcher
        self.settings = settings
        self.model = patcher.model
        # Anew: a node behind ours may have loaded the model a second time, as TorchCompileModel does.
        self.memory: ReferenceMemory = memories.of(patcher)
        self.weights: ModelState = model_state(patcher)
        self.references = ReferenceRun(self.memory.store, settings.storage)
        self.unfit = run_unfit_because(patcher, guider.conds, guider.model_options)
        self.refused: str | None = None
        self.answered = False
        self.honoured = False
        self._untrimmed = False
        self._tile: Tile | None = None
        self.tokens = 0 if self.unfit else reference_tokens(guider.conds, tiles_of(guider.model_options, shape))
        dtype = patcher.model.get_dtype_inference()
        size = bytes_per_token(patcher.model.diffusion_model, settings.storage, dtype) if self.tokens else 0
        sets = reference_rows(guider.conds)
        self.memory.store.begin_run(settings.budget, self.tokens, size, settings.placement, sets)
        memories.beside(patcher, wanted=self.tokens > 0 and settings.placement is not Placement.CPU)

    def refuse(self, reason: str | None) -> None:
        """The stock path for the whole run, said once.

        Raises:
            SteppedAside: the cache has served this run before.
        """
        if not reason or self.refused:
            return
        self.refused = step_aside(reason)
        if self.answered:
            raise SteppedAside

    def answer(self, evaluation: Evaluation, evaluate: Evaluate) -> Tensor | None:
        """An evaluation with references; None leaves it to the stock path."""
        if self.refused:
            return None
        try:
            out = self._within_memory(lambda: self._cached(evaluation, evaluate))
        except MissingFromHost as error:
            self.refuse(str(error))
            return None
        if self.refused:
            return None
        self.answered = True
        return out

    def _cached(self, evaluation: Evaluation, evaluate: Evaluate) -> Tensor | None:
        second = None if evaluation.model is self.model else "a second model takes part in the run"
        self.refuse(self.unfit or second or evaluation_unfit_because(evaluation))
        if self.refused:
            return None
        if not evaluation.reference_tokens:
            return evaluate(evaluation.options, {**evaluation.conds, "ref_latents": []})
        references = self._references_of(evaluation)
        out = evaluate(*with_references(evaluation, references))
        self.honoured |= not references.missing
        # Blocks that asked once and are silent now were skipped: EasyCache and its like answer from earlier steps.
        self.refuse(references.unheard or (None if self.honoured else references.missing))
        return out

    def _references_of(self, evaluation: Evaluation) -> References:
        model, compiled = evaluation.diffusion_model, evaluation.compiled
        self._turn_to(evaluation.options.get(WHERE))
        self.memory.store.require_room()
        rows = find_or_compute(self.references, model, evaluation.reference_latents, self.weights, evaluation.options)
        own = own_places(model, evaluation.options, all_of_them=compiled)
        if not self._untrimmed and places(model)[-1] not in own:
            self._untrimmed = True
            log.info("Klein 9B Reference Cache: another node changes the last block, so it computes the text too.")
        return References(model, rows.at_hand() if compiled else rows, own)

    def _turn_to(self, tile: Tile | None) -> None:
        """Each tile of a picture has keys and values of its own, as all references attend to its part of the first."""
        if tile != self._tile:
            self.references.rest()
        self._tile = tile

    @needs_host()
    def _within_memory(self, evaluate: Callable[[], Tensor | None]) -> Tensor | None:
        """Tries with what is on the device, then with everything in RAM, then leaves it to the stock path.

        Raises:
            NoRoom: there is none where the references must lie.
        """
        import comfy.model_management

        is_oom = comfy.model_management.is_oom  # found before the model runs: its absence must not hide an error
        with suppress(NoRoomAnywhere):
            for _ in range(2):
                try:
                    return evaluate()
                except Exception as error:
                    if not is_oom(error):
                        raise
                self.memory.make_way()
                comfy.model_management.soft_empty_cache()
        self._let_go()
        comfy.model_management.soft_empty_cache()
        self.refuse("there is not enough memory for the references' keys and values")
        return None

    def _let_go(self) -> None:
        """The run goes on without references kept, so they leave the device, and RAM where that is short."""
        store = self.memory.store
        self.references = ReferenceRun(store, self.settings.storage)
        store.end_run()
        store.offload(max(1, store.device_bytes))

    def finish(self) -> None:
        store = self.memory.store
        used = store.held_bytes
        store.end_run()
        if self.refused:
            self.settings.show(f"stock path: {self.refused}")
            return
        if self.tokens and not self.references.report.references:
            return  # It was cancelled or failed before it had any.
        text = describe(self.references.report, store.held_bytes, used - store.held_bytes, self.settings)
        log.info("Klein 9B Reference Cache: %s", text.replace("\n", ", "))
        self.settings.show(text)


def find_or_compute(
    run: ReferenceRun, model: Any, latents: list[Tensor], weights: Hashable, options: dict[str, Any]
) -> ReferenceRows:
    """Keys and values of reference latents (batch, 128, height, width), placed as the host places them."""
    parts = options.get(PARTS)
    override = parts.of_references() if parts else options.get("optimized_attention_override")
    attention = {} if override is None else {"optimized_attention_override": override}
    acceleration = identity(options.get(ACCELERATION))
    positions = repr(sorted((options.get("rope_options") or {}).items()))

    def position(latent: Tensor, index: int) -> PositionedReference:
        place = (index + 1) * model.params.ref_index_scale
        tokens, ids = model.process_img(latent, index=place, transformer_options=options)
        kept = parts and parts.kept[index]
        if kept is None:
            return PositionedReference(tokens, ids)
        return PositionedReference(*(x[:, kept.to(x.device)] for x in (tokens, ids)))

    def compute(tokens: Tensor, ids: Tensor) -> Iterator[KeyValue]:
        return reference_keys_values(model, tokens, ids, functions_by(options)(attention, tokens))

    state = weights, identity(override), acceleration, positions
    return run.entries(latents, state, position, compute, parts and parts.changed_tokens.kept_tokens)


def reference_tokens(conds: dict[str, list[dict[str, Any]]], tiles: Tiles | None = None) -> int:
    """Tokens of all distinct sets of references in a run's conditionings, for one picture of a batch.

    Args:
        tiles: where it is painted in them, one tile's part of the first reference counts.
    """
    sets = {}
    for cond in (cond for kind in conds.values() for cond in kind or ()):
        latents = cond.get("reference_latents") or ()
        counts = [latent.shape[-2] * latent.shape[-1] for latent in latents]
        sets[tuple(map(id, latents))] = sum([tiles.tokens, *counts[1:]] if tiles and counts else counts)
    return sum(sets.values())


def describe(report: RunReport, held_bytes: int, freed_bytes: int, settings: Settings) -> str:
    """What a run did, for the person in front of the node. freed_bytes: of this run, when it ended."""
    if not report.references:
        return "no references in this run"
    found = "hit" if not report.misses else "miss" if not report.hits else f"{report.hits} hit, {report.misses} miss"
    lines = [f"{found}: {report.references} reference{'s' * (report.references != 1)}, {held_bytes / GIB:.2f} GiB held"]
    if report.extended:
        lines.append("a reference was added: all were computed again, because they attend to each other")
    if freed_bytes and settings.budget:
        lines.append(f"{freed_bytes / GIB:.2f} GiB were over memory_gib and are freed: raise it to keep them")
    if report.misses:
        lines.append(f"computed in {report.seconds_spent:.2f} s")
    if report.hits:
        lines.append(f"{report.seconds_saved:.2f} s saved")
    lines += [f"approximate: {reason}" for reason in (settings.approximate, settings.storage.approximate) if reason]
    return "\n".join(lines)
