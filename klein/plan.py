"""What fills the card while Klein runs: a plan from files, a job and a card, in numbers and in words.

Bytes of the parts are `vram`'s, what ComfyUI keeps of the model is `residency`'s. GB are 10^9 bytes, as files and
cards are sold; a card of 12 GB has 12 GiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from .kv_store import Storage
from .official_files import GB, MODELS, EncoderFile, ModelFile, VaeFile, model_file, twins
from .residency import Card, Kept, classic, dynamic
from .vram import (
    Job,
    activation_bytes,
    cache_bytes,
    host_estimate,
    host_vae_decode,
    host_vae_encode,
    vae_decode_bytes,
    vae_encode_bytes,
)

PCIE = 25 * GB  # a second: PCIe 4.0 x16 from pinned RAM
NOT_MEASURED = "Seconds: not measured on this card."


@dataclass(frozen=True)
class Files:
    """The three files of Klein 9B."""

    model: ModelFile
    encoder: EncoderFile
    vae: VaeFile


@dataclass(frozen=True)
class Plan:
    """What one job takes on one card."""

    files: Files
    job: Job
    card: Card

    @cached_property
    def side_by_side(self) -> bool:
        """Whether ComfyUI evaluates prompt and negative at once: where 1.5 times its estimate is still free."""
        left = self.card.free - self._kept(replace(self.job, guided=False)).resident
        return self.job.guided and 1.5 * host_estimate(self.files.model.dims, self.job, prompts=2) < left

    @cached_property
    def evaluated(self) -> Job:
        """The job as it is evaluated: one prompt after the other where there is no room for both."""
        return replace(self.job, guided=self.side_by_side)

    @cached_property
    def activations(self) -> int:
        return activation_bytes(self.files.model.dims, self.evaluated)

    @cached_property
    def unpacked(self) -> int:
        """A quantised layer in 16 bits while it computes, on a card without a kernel for its format."""
        return max((module.used - module.stored for module in self.files.model.modules), default=0)

    @cached_property
    def estimate(self) -> int:
        """What ComfyUI sets aside for them."""
        return host_estimate(self.files.model.dims, self.job)

    @cached_property
    def cache(self) -> int:
        return cache_bytes(self.files.model.dims, self.job)

    @cached_property
    def cache_on_card(self) -> int:
        """The references are loaded before the model, as far as its estimate leaves room."""
        if self.card.is_processor:
            return self.cache
        aside = max(self.card.least_inference, self.estimate + self.card.reserved)
        return int(max(0, min(self.cache, self.card.free - aside)))

    @cached_property
    def kept(self) -> Kept:
        return self._kept(self.evaluated)

    def _kept(self, job: Job) -> Kept:
        model = self.files.model
        if self.card.is_processor:
            return Kept(model.nbytes)
        if self.card.dynamic:
            return dynamic(
                model.modules, self.card, activation_bytes(model.dims, job) + self.cache_on_card + self.unpacked
            )
        return classic(model.modules, self.card, self.estimate, self.cache_on_card)

    @cached_property
    def streamed(self) -> int:
        """Bytes of weights and of cached references that come to the card in every evaluation of the model."""
        return self.files.model.nbytes - self.kept.resident + self.cache - self.cache_on_card

    @cached_property
    def in_use(self) -> int:
        """On the card while sampling, at the most."""
        bringing = min(self.kept.buffer, self.card.streams * self.files.model.largest)
        return self.kept.resident + self.cache_on_card + self.activations + self.unpacked + bringing

    @cached_property
    def least(self) -> int:
        """What the card must have where as little as ComfyUI allows stays on it."""
        model = self.files.model
        return self.activations + (model.nbytes if self.card.stays else model.largest)

    @property
    def encode(self) -> int:
        """The VAE's work on the largest reference."""
        return max((vae_encode_bytes(size) for size in self.job.references), default=0)

    @property
    def decode(self) -> int:
        return self.job.batch * vae_decode_bytes(self.job.size, decoder=self.files.vae.decoder)

    @property
    def evicted(self) -> int:
        """Of the model, when ComfyUI makes room for the VAE by its own estimate."""
        references = (host_vae_encode(size) for size in self.job.references)
        wanted = max(host_vae_decode(self.job.size), *references, 0) + 1.1 * self.files.vae.nbytes + self.card.reserved
        return (
            0
            if self.card.dynamic or self.card.is_processor
            else max(0, int(wanted - (self.card.free - self.kept.resident)))
        )

    @property
    def weights(self) -> int:
        """Of all three files, in RAM where they are not on the card."""
        return self.files.model.nbytes + self.files.encoder.nbytes + self.files.vae.nbytes

    @property
    def ram(self) -> int:
        """Needed of RAM: what leaves the card, and everything where there is none."""
        if self.card.is_processor:
            return self.weights + self.activations + self.cache
        staying = self.kept.resident + (self.files.encoder.nbytes if self.encoder_stays else 0)
        return self.weights - staying + self.cache - self.cache_on_card

    @property
    def encoder_stays(self) -> bool:
        """Whether the text encoder may stay on the card while the model is there."""
        aside = max(self.card.least_inference, self.estimate + self.card.reserved)
        model = 1.1 * (self.files.model.nbytes + self.cache)
        return self.card.is_processor or self.card.free - self.files.encoder.nbytes >= model + aside

    @property
    def fits(self) -> bool:
        """Whether it runs at all."""
        return self.ram <= self.card.ram if self.card.is_processor else self.least <= self.card.free

    @property
    def is_whole(self) -> bool:
        """Whether it runs and nothing streams."""
        return self.fits and self.streamed == 0


def verdict(plan: Plan) -> str:
    """One sentence or two: does it run, what does it cost, and the cheapest change that helps."""
    if not plan.files.model.modules:
        return "The plan is without the diffusion model, whose size is not known."
    if plan.is_whole and plan.card.is_processor:
        return f"It fits the RAM: {gb(plan.ram)} of {gb(plan.card.ram)}."
    if plan.is_whole:
        return f"It fits: the whole model stays in VRAM, {gb(plan.in_use)} of {gb(plan.card.free)} at most."
    if plan.card.is_processor:
        return f"It does not fit the RAM: {gb(plan.ram)} needed, {gb(plan.card.ram)} free.{_advice(plan)}"
    if not plan.fits:
        there = f"{gb(plan.least)} needed, {gb(plan.card.free)} there"
        return f"It does not fit, even with every weight streamed: {there}.{_advice(plan)}"
    return f"It runs, and {gb(plan.streamed)} come to the card in every step.{_advice(plan)}"


def _advice(plan: Plan) -> str:
    """The first change that makes all of it stay, else the one that leaves the least to stream."""
    changes = list(_changes(plan))
    whole = next((change for change in changes if change[1].is_whole), None)
    if whole:
        return f" {whole[0]}: everything resident."
    runs = [change for change in changes if change[1].fits]
    if not runs:
        return ""
    words, best = min(runs, key=lambda change: change[1].streamed)
    if best.card.is_processor:
        return f" {words}: {gb(best.ram)}."
    better = not plan.fits or best.streamed < 0.9 * plan.streamed
    return f" {words}: {gb(best.streamed)} a step." if better else ""


def _changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """What a person can change, the cheapest first, in words that a colon may follow."""
    job = plan.job
    if job.cached:
        for storage in (Storage.INT8, Storage.INT4):
            smaller = replace(plan, job=replace(job, cache=storage))
            if smaller.cache < plan.cache:
                count = f"{len(job.references)} reference{'s' * (len(job.references) > 1)}"
                yield f"{count} keep {gb(plan.cache)}, {storage.value} {gb(smaller.cache)}", smaller
    for name in twins(plan.files.model.name):
        smaller = replace(plan, files=replace(plan.files, model=model_file(name, None)))
        yield f"{name} ({MODELS[name]:.2f} GB)", smaller
    if len(job.references) > 1:
        yield "One reference instead", replace(plan, job=replace(job, references=job.references[:1]))


def report(plan: Plan) -> str:
    """The verdict, then a line a part, then what is odd about a file."""
    files = plan.files
    lines = [verdict(plan), "", *_model_lines(plan), *_encoder_lines(plan), *_vae_lines(plan), *_card_lines(plan)]
    notes = [note for note in (files.model.note, files.encoder.note, files.vae.note) if note]
    return "\n".join([*lines, *_downloads(files), NOT_MEASURED, *notes])


def _model_lines(plan: Plan) -> Iterator[str]:
    model, kept = plan.files.model, plan.kept
    if not model.modules:
        return
    stays = "all in RAM" if plan.card.is_processor else f"{gb(kept.resident)} stay in VRAM"
    yield f"Diffusion model: {gb(model.nbytes)}, {stays}"
    if plan.streamed:
        seconds = plan.streamed / PCIE
        yield (
            f"Streamed each step: {gb(plan.streamed)}, {seconds:.2f} s at 25 GB/s (PCIe 4.0 x16, twice that at x8), "
            "hidden where a step takes longer"
        )
    aside = "" if plan.card.is_processor or plan.card.dynamic else f"; ComfyUI sets {gb(plan.estimate)} aside"
    together = " (prompt and negative at once)" if plan.side_by_side else ""
    unpacked = f", {gb(plan.unpacked)} for a layer unpacked on older cards" if plan.unpacked else ""
    yield f"Activations: {gb(plan.activations)}{together}{unpacked}{aside}"
    if plan.cache:
        where = "" if plan.card.is_processor else f", {gb(plan.cache_on_card)} in VRAM"
        yield f"Reference cache: {gb(plan.cache)} ({plan.job.cache.value if plan.job.cache else ''}){where}"


def _encoder_lines(plan: Plan) -> Iterator[str]:
    if not plan.files.encoder.nbytes:
        return
    where = "stays in VRAM" if plan.encoder_stays else "makes way for the model"
    where = where if plan.card.encodes else "has been on the processor all the while"
    after = "" if plan.card.is_processor else f"; runs first, then {where}"
    yield f"Text encoder: {gb(plan.files.encoder.nbytes)} (27 of 36 layers){after}"


def _vae_lines(plan: Plan) -> Iterator[str]:
    if not plan.files.vae.nbytes:
        return
    encode = f"{gb(plan.encode)} to encode, " if plan.encode else ""
    moved = f"; ComfyUI moves {gb(plan.evicted)} of the model out for it" if plan.evicted and plan.streamed == 0 else ""
    yield f"VAE: {gb(plan.files.vae.nbytes)}, {encode}{gb(plan.decode)} to decode{moved}"


def _card_lines(plan: Plan) -> Iterator[str]:
    card = plan.card
    if card.is_processor:
        yield f"All of it is in RAM: {gb(plan.ram)} of {gb(card.ram)}"
        return
    kind = "dynamic VRAM: a weight comes when it is used and stays while there is room" if card.dynamic else "classic"
    yield f"{card.name or 'Card'}: {gb(card.free)} for models, {gb(card.reserved)} kept for other programs ({kind})"
    short = "" if plan.ram <= card.ram else ", more than there is: weights are read from disk again"
    yield f"RAM for what is not in VRAM: {gb(plan.ram)} of {gb(card.ram)}{short}"


def _downloads(files: Files) -> Iterator[str]:
    missing = [file for file in (files.model, files.encoder, files.vae) if file.to_download]
    if missing:
        each = ", ".join(f"{file.name.removesuffix('.safetensors')} {gb(file.to_download)}" for file in missing)
        yield f"To download: {gb(sum(file.to_download for file in missing))} ({each})"


def gb(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= 0.05 * GB else f"{count / 1e6:.0f} MB"
