"""Whether Klein fits a card: what each phase of a run holds, what streams, and the cheapest change that helps.

Computed from the files' headers, or the official files' known sizes, and the bytes of klein.vram. ComfyUI runs the
phases one behind the other and keeps in VRAM what it has room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .framing import MEGAPIXEL, Size
from .kv_store import Storage
from .vram import (
    ITEM,
    KLEIN_9B,
    Dims,
    Job,
    activation_bytes,
    cache_bytes,
    host_estimate,
    vae_decode_bytes,
    vae_encode_bytes,
)

GIB = 2**30
VRAM, RAM = "VRAM", "RAM"
PCIE = 22e9  # bytes a second from pinned RAM over PCIe 4.0 x16; half of it over x8
_FLOATS = ("bf16", "fp16", "fp32")
_STAGES = 2  # one layer lies in VRAM while the next is copied
_TILE = Size(512, 512)  # what the VAE does at once when it works in tiles
_INFERENCE = int(0.8 * GIB)  # ComfyUI's least for any evaluation
_ENCODING = int(0.4 * GIB)  # a prompt's activations and one matrix of the encoder in float32


@dataclass(frozen=True)
class WeightsFile:
    """One file of the set.

    Attributes:
        name: as the person knows it.
        kept: bytes the host holds of it while it works.
        format: of its matrices, as klein.weight_format names them.
        to_download: its size where it is not on this machine, else 0.
    """

    name: str
    kept: int
    format: str
    to_download: int = 0

    @property
    def largest_step(self) -> int:
        """Bytes that go through VRAM for one layer: copies under way, and the matrix cast where it is quantised."""
        return 0 if self.format in _FLOATS else KLEIN_9B.largest_matrix * ITEM


@dataclass(frozen=True)
class ModelSet:
    """The three files, and what of their shapes counts."""

    diffusion_model: WeightsFile
    text_encoder: WeightsFile
    vae: WeightsFile
    dims: Dims = KLEIN_9B
    decoder: int = 128


@dataclass(frozen=True)
class Card:
    """What there is to put it on, in bytes.

    Attributes:
        total: the card's VRAM.
        usable: what of it ComfyUI can have when nothing of its own is loaded, its reserve left out; never below 0.
        ram: of the machine.
        on_demand: weights are fetched as they are needed (dynamic VRAM), so that all that is free is used. Otherwise
            ComfyUI sets its own estimate aside before it loads.
        memory: what it is called; RAM where there is no card.
    """

    total: int
    usable: int
    ram: int
    on_demand: bool = True
    memory: str = VRAM


def named_card(gib: float, ram_gib: float) -> Card:
    """A card by its size: a desktop and the driver take some of it, ComfyUI keeps 0.4 GiB free."""
    taken = 1.1 * GIB
    return Card(int(gib * GIB), max(0, int(gib * GIB - taken)), int(ram_gib * GIB))


@dataclass(frozen=True)
class Phase:
    """What lies in VRAM at one point of a run.

    Attributes:
        parts: name and bytes.
        streamed: bytes of weights and cache that found no room and come over PCIe whenever they are needed.
        short: bytes it lacks even so; more than 0 cannot run.
        note: what the person should know of it.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    streamed: int = 0
    short: int = 0
    note: str = ""

    @property
    def held(self) -> int:
        return sum(nbytes for _, nbytes in self.parts)


@dataclass(frozen=True)
class Plan:
    """A run on a card."""

    models: ModelSet
    job: Job
    card: Card
    phases: tuple[Phase, ...]

    @property
    def sampling(self) -> Phase:
        return next(phase for phase in self.phases if phase.name == "sampling")

    @property
    def fits(self) -> bool:
        return not any(phase.short for phase in self.phases)

    @property
    def resident(self) -> bool:
        """Nothing streams while it samples, not even from the references' cache."""
        return self.fits and not self.sampling.streamed

    @property
    def encoder_stays(self) -> bool:
        """The text encoder lies beside the diffusion model, so that a new prompt moves nothing."""
        return self.resident and self.sampling.held + self.models.text_encoder.kept <= self.card.usable


def make_plan(models: ModelSet, job: Job, card: Card) -> Plan:
    phases = [_encoding(models, card)]
    if job.references:
        phases.append(_encoding_images(models, job, card))
    phases += [_sampling(models, job, card), _decoding(models, job, card)]
    return Plan(models, job, card, tuple(phases))


def _encoding(models: ModelSet, card: Card) -> Phase:
    weights = models.text_encoder.kept
    kept = max(0, min(weights, card.usable - _ENCODING))
    parts = (("text encoder", kept), ("activations", _ENCODING))
    note = "a prompt encoded before needs none of this"
    return Phase("prompt", parts, weights - kept, max(0, _ENCODING - card.usable), note)


def _encoding_images(models: ModelSet, job: Job, card: Card) -> Phase:
    largest = max(job.references, key=lambda size: size.area)
    return _vae_phase("images", models, vae_encode_bytes(largest), vae_encode_bytes(_TILE), card)


def _decoding(models: ModelSet, job: Job, card: Card) -> Phase:
    whole, tile = (vae_decode_bytes(size, decoder=models.decoder) for size in (job.size, _TILE))
    return _vae_phase("picture", models, whole, tile, card)


def _vae_phase(name: str, models: ModelSet, whole: int, tile: int, card: Card) -> Phase:
    """As one where there is room, else in tiles."""
    room = card.usable - models.vae.kept
    in_tiles = whole > max(room, tile)
    working = tile if in_tiles else whole
    parts = (("VAE", models.vae.kept), ("activations", working))
    return Phase(name, parts, short=max(0, working - room), note="in tiles" if in_tiles else "")


def _sampling(models: ModelSet, job: Job, card: Card) -> Phase:
    """What is at work comes first, then what streaming takes, the references' cache, and the weights."""
    model, cache = models.diffusion_model, cache_bytes(models.dims, job)
    needed = activation_bytes(models.dims, job) + model.largest_step
    aside = needed if card.on_demand else max(needed, _INFERENCE, host_estimate(models.dims, job))
    transit, kept, cache_here = _placed(model, cache, cache // models.dims.blocks, card.usable - aside)
    parts = (
        ("diffusion model", kept),
        ("in transit", transit),
        ("references' cache", cache_here),
        ("activations", needed),
    )
    streamed = model.kept - kept + cache - cache_here
    set_aside = f"ComfyUI sets {aside / GIB:.1f} GiB aside" if streamed and aside > needed else ""
    return Phase("sampling", parts, streamed, max(0, needed + transit - card.usable), set_aside)


def _placed(model: WeightsFile, cache: int, cache_layer: int, room: int) -> tuple[int, int, int]:
    """Bytes in transit, and what stays of the model and of the cache."""
    if model.kept + cache <= room:
        return 0, model.kept, cache
    transit = _STAGES * _layer(model)
    if cache > room - transit:
        transit += _STAGES * cache_layer
        return transit, 0, max(0, min(cache, room - transit))
    return transit, room - transit - cache, cache


def _layer(model: WeightsFile) -> int:
    """The largest matrix as it is stored."""
    return KLEIN_9B.largest_matrix * model.kept // 9_078_581_248


@dataclass(frozen=True)
class Change:
    """One thing a person could change, as a clause, and what the run would then be."""

    what: str
    plan: Plan


def cheapest_change(plan: Plan, smaller: tuple[WeightsFile, ...]) -> Change | None:
    """The first change that keeps everything in VRAM, else the one that streams least; None where none helps.

    Args:
        smaller: other files of the same model, largest first.
    """
    changes = [change for change in _changes(plan, smaller) if _better(change.plan, plan)]
    whole = next((change for change in changes if change.plan.resident), None)
    return whole or min(changes, key=lambda change: _cost(change.plan), default=None)


def _cost(plan: Plan) -> tuple[int, int]:
    return sum(phase.short for phase in plan.phases), plan.sampling.streamed


def _better(one: Plan, other: Plan) -> bool:
    return _cost(one) < _cost(other)


def _changes(plan: Plan, smaller: tuple[WeightsFile, ...]) -> Iterator[Change]:
    """From what costs nothing to what costs most."""
    models, job, card = plan.models, plan.job, plan.card
    if job.cached and job.cache is Storage.MODEL:
        less = replace(job, cache=Storage.INT8)
        yield Change("int8 for the references' cache (half of it)", make_plan(models, less, card))
    for file in smaller:
        fewer = replace(models, diffusion_model=file)
        yield Change(f"{file.name} instead of {models.diffusion_model.name}", make_plan(fewer, job, card))
    if job.batch > 1:
        yield Change(f"batch 1 instead of {job.batch}", make_plan(models, replace(job, batch=1), card))
    if any(one.area > MEGAPIXEL // 2 for one in job.references):
        half = tuple(_halved(one) for one in job.references)
        yield Change("references of half the area", make_plan(models, replace(job, references=half), card))
    if job.size.area > MEGAPIXEL // 2:
        smallest = replace(job, size=_halved(job.size))
        yield Change("a picture of half the area", make_plan(models, smallest, card))


def _halved(size: Size) -> Size:
    return Size(int(size.width / 2**0.5) // 16 * 16, int(size.height / 2**0.5) // 16 * 16)
