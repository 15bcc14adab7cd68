"""One sampling run with the exact reference cache, hung onto a MODEL through the host's wrappers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...kernels.eager.append_kv import KeyValue, append_kv
from ...klein.kv_cache import PositionedReference, ReferenceRows, ReferenceRun, RunReport
from ...klein.kv_pass import reference_keys_values
from ...klein.kv_store import Storage, bytes_per_token
from ...klein.transformer import single_block
from .block_functions import host_functions, is_plain, plain
from .cache_memory import ReferenceMemory, memories
from .model_state import ModelState, identity, model_state
from .newer_host import MissingFromHost, needs_host
from .step_aside import refuse_evaluation, refuse_run

if TYPE_CHECKING:
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

RUN = "klein9b_reference_run"
GIB = 2**30


@dataclass(frozen=True)
class Settings:
    """What the node was told.

    Attributes:
        budget: bytes kept between runs; 0 keeps nothing.
        approximate: why the result is approximate, empty where it is exact.
        show: puts text under the node.
    """

    storage: Storage
    budget: int
    approximate: str
    show: Callable[[str], None]


class SteppedAside(Exception):
    """The stock path must run, but the cache has answered already: the run starts over, or it would be half of each."""


class CachedReferences:
    """The two wrappers: around a run, to know its weights and size, and around every evaluation of the model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def outer_sample(self, executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        try:
            run = SamplingRun(self.settings, guider)
        except MissingFromHost as error:
            self.settings.show(f"stock path: {step_aside(error)}")
            return executor(*args, **kwargs)
        conds = {kind: [cond.copy() for cond in each] for kind, each in guider.conds.items()}
        guider.model_options["transformer_options"][RUN] = run
        try:
            return executor(*args, **kwargs)
        except SteppedAside:
            guider.conds = conds
            return executor(*args, **kwargs)
        finally:
            del guider.model_options["transformer_options"][RUN]
            run.finish()

    def diffusion_model(
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
        def stock() -> Tensor:
            return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)

        run: SamplingRun | None = transformer_options.get(RUN)
        if not ref_latents or run is None:
            return stock()
        model = executor.class_obj

        def cached() -> Tensor | None:
            run.refuse(run.unfit or refuse_evaluation(model, x, ref_latents, transformer_options, kwargs))
            if run.refused:
                return None
            rows = run.rows(model, ref_latents, x.dtype, transformer_options)
            appended = Appended(model, rows, transformer_options)
            out = executor(x, timestep, context, y, guidance, None, control, appended.options, **kwargs)
            run.honoured |= not appended.missing
            # Blocks that asked once and are silent now were skipped: EasyCache and its like answer from earlier steps.
            run.refuse(None if run.honoured else appended.missing)
            return out

        out = run.attempt(cached)
        if run.refused or out is None:
            return stock()
        run.answered = True
        return out


class SamplingRun:
    """From the moment a guider starts until it has finished.

    Attributes:
        unfit: why no evaluation of this run can use the cache.
        refused: why the stock path runs, once it does.
        tokens: of all references the run may use.
        answered: the cache has served an evaluation.
        honoured: every block has asked for the references' keys and values in some evaluation.
    """

    @needs_host()
    def __init__(self, settings: Settings, guider: Any) -> None:
        patcher = guider.model_patcher
        self.settings = settings
        # Anew: a node behind ours may have loaded the model a second time, as TorchCompileModel does.
        self.memory: ReferenceMemory = memories.beside(patcher)
        self.weights: ModelState = model_state(patcher)
        self.references = ReferenceRun(self.memory.store, settings.storage)
        self.unfit = refuse_run(patcher, guider.conds, guider.model_options)
        self.refused: str | None = None
        self.answered = False
        self.honoured = False
        self.tokens = 0 if self.unfit else reference_tokens(guider.conds)
        dtype = patcher.model.get_dtype_inference()
        size = bytes_per_token(patcher.model.diffusion_model, settings.storage, dtype) if self.tokens else 0
        self.memory.store.begin_run(settings.budget, self.tokens, size)

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

    def rows(self, model: Any, latents: list[Tensor], dtype: torch.dtype, options: dict[str, Any]) -> ReferenceRows:
        """One entry for each row of the batch, found or computed."""
        return find_or_compute(self.references, model, [r.to(dtype) for r in latents], self.weights, options)

    def attempt(self, evaluate: Callable[[], Tensor | None]) -> Tensor | None:
        """One evaluation; None leaves it to the stock path."""
        try:
            return self._within_memory(evaluate)
        except MissingFromHost as error:
            self.refuse(str(error))
            return None

    @needs_host()
    def _within_memory(self, evaluate: Callable[[], Tensor | None]) -> Tensor | None:
        """Tries with what is on the device, then with everything in RAM, then leaves it to the stock path."""
        import comfy.model_management

        is_oom = comfy.model_management.is_oom  # found before the model runs: its absence must not hide an error
        store = self.memory.store
        for give_up in (False, True):
            try:
                return evaluate()
            except Exception as error:
                if not is_oom(error):
                    raise
            store.offload(max(1, store.device_bytes))
            comfy.model_management.soft_empty_cache()
            if give_up:
                self.refuse("there is not enough memory for the references' keys and values")
        return None

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


def step_aside(reason: object) -> str:
    """Says so in the log, once a run; returns the reason as a clause."""
    clause = str(reason).removesuffix(".")
    log.warning("Klein 9B Reference Cache steps aside, the stock path runs: %s.", clause)
    return clause


def find_or_compute(
    run: ReferenceRun, model: Any, latents: list[Tensor], weights: Hashable, options: dict[str, Any]
) -> ReferenceRows:
    """Keys and values of reference latents (batch, 128, height, width), placed as the host places them."""
    override = options.get("optimized_attention_override")
    host = host_functions({} if override is None else {"optimized_attention_override": override})
    positions = repr(sorted((options.get("rope_options") or {}).items()))

    def position(latent: Tensor, index: int) -> PositionedReference:
        place = (index + 1) * model.params.ref_index_scale
        return PositionedReference(*model.process_img(latent, index=place, transformer_options=options))

    def compute(tokens: Tensor, ids: Tensor) -> Iterator[KeyValue]:
        return reference_keys_values(model, tokens, ids, host)

    return run.entries(latents, (weights, identity(override), positions), position, compute)


class Appended:
    """Transformer options that put the references behind the keys and values of every block.

    The host's block calls an attention patch with normed queries and keys before it rotates them; the patch rotates
    them itself, appends, and leaves no position table for the host to rotate by again.
    """

    def __init__(self, model: Any, rows: ReferenceRows, options: dict[str, Any]) -> None:
        self.rows = rows
        self.rope = host_functions(options).rope
        self.doubles = len(model.double_blocks)
        self.blocks = self.doubles + len(model.single_blocks)
        self.done = 0
        self.options = options | {"patches": options.get("patches", {}) | {"attn1_patch": [self.attention_patch]}}
        self._trim_last(model.single_blocks[-1])

    def attention_patch(
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: Tensor, attn_mask: Tensor | None, extra_options: dict[str, Any]
    ) -> dict[str, Tensor | None]:
        single = extra_options["block_type"] == "single"
        reference = self._reference(extra_options["block_index"] + self.doubles * single)
        k, v = append_kv(self.rope(plain(k), pe), plain(v), reference)
        return {"q": self.rope(plain(q), pe), "k": k, "v": v, "pe": None, "attn_mask": attn_mask}

    @property
    def missing(self) -> str | None:
        """Why not every block saw the references."""
        if self.done == self.blocks:
            return None
        return f"{self.blocks - self.done} of {self.blocks} blocks did not ask for the references' keys and values"

    def _reference(self, index: int) -> KeyValue:
        self.done += 1
        return self.rows.read(index)

    def _trim_last(self, block: Any) -> None:
        """The last block need not compute text tokens, unless something else already takes its place."""
        if "forward" in vars(block) or not is_plain(block.linear1):
            return

        def last_block(args: dict[str, Any], _: dict[str, Any]) -> dict[str, Tensor]:
            x, options = args["img"], args["transformer_options"]
            text_tokens = options["img_slice"][0]
            host = host_functions(options)
            reference = self._reference(self.blocks - 1)
            single_block(block, x, args["vec"], args["pe"], host, reference=reference, first_query=text_tokens)
            return {"img": x}

        place = ("single_block", self.blocks - self.doubles - 1)
        self.options["patches_replace"] = self.options.get("patches_replace", {}) | {"dit": {place: last_block}}


def reference_tokens(conds: dict[str, list[dict[str, Any]]]) -> int:
    """Tokens of all distinct sets of references in a run's conditionings."""
    sets = {}
    for cond in (cond for kind in conds.values() for cond in kind or ()):
        latents = cond.get("reference_latents") or ()
        sets[tuple(map(id, latents))] = sum(latent.shape[-2] * latent.shape[-1] for latent in latents)
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
        lines.append(f"{freed_bytes / GIB:.2f} GiB were over the budget and are freed: raise budget_gib to keep them")
    if report.misses:
        lines.append(f"computed in {report.seconds_spent:.2f} s")
    if report.hits:
        lines.append(f"{report.seconds_saved:.2f} s saved")
    if settings.approximate:
        lines.append(settings.approximate)
    return "\n".join(lines)
