"""A memory plan in words: the verdict first, then the numbers it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .plan import GIB, PCIE, VRAM, Change, Phase, Plan

_RAM_FOR_OTHERS = 4 * GIB
_DOING = {
    "prompt": "encoding the prompt",
    "images": "encoding the references",
    "sampling": "sampling",
    "picture": "decoding the picture",
}


def plan_in_words(plan: Plan, change: Change | None) -> str:
    """Some ten lines: the verdict, the phases, what moves between them, what is to download."""
    lines = [
        verdict(plan, change),
        "",
        f"{asked(plan)} {_there(plan)}",
        *map(_phase, plan.phases),
        "",
        *_moves(plan),
        *_ram(plan),
        *_downloads(plan),
    ]
    return "\n".join([*lines, "Seconds: not measured on this card."])


def verdict(plan: Plan, change: Change | None) -> str:
    """One or two sentences."""
    return " ".join(filter(None, (_what_happens(plan), advice(change))))


def _what_happens(plan: Plan) -> str:
    lacking = next((phase for phase in plan.phases if phase.short), None)
    if lacking is not None:
        return f"Does not fit: {_DOING[lacking.name]} lacks {gib(lacking.short)} even with its weights streamed."
    streamed, on_card = plan.sampling.streamed, plan.card.memory == VRAM
    if not streamed:
        return f"Fits: everything stays {'on the card' if on_card else 'in RAM'} while it samples."
    if not on_card:
        return f"Runs, reading {gib(streamed)} from disk in every step: very slow."
    seconds = streamed / PCIE
    return f"Runs, streaming {gib(streamed)} a step: {seconds:.2f} s at 22 GB/s, hidden where a step takes longer."


def advice(change: Change | None) -> str:
    """One sentence, empty where nothing helps or is needed."""
    if change is None:
        return ""
    after = change.plan
    if after.resident:
        return f"{_sentence(change.what)}: everything stays."
    if after.fits:
        return f"{_sentence(change.what)}: {gib(after.sampling.streamed)} a step."
    return ""


def asked(plan: Plan) -> str:
    """The picture and its references."""
    job = plan.job
    counted = Counter(map(str, job.references))
    references = " and ".join(f"{count} reference{'s' * (count > 1)} of {size}" for size, count in counted.items())
    parts = [str(job.size), references, f"batch {job.batch}" if job.batch > 1 else "", "cfg" if job.guided else ""]
    return ", ".join(part for part in parts if part)


def _there(plan: Plan) -> str:
    card = plan.card
    beside = f", and {gib(card.ram)} of RAM" if card.memory == VRAM else ""
    return f"in {gib(card.total)} of {card.memory}, {gib(card.usable)} of it usable{beside}"


def _phase(phase: Phase) -> str:
    parts = ", ".join(f"{name} {nbytes / GIB:.1f}" for name, nbytes in phase.parts if nbytes)
    streams = f", {gib(phase.streamed)} streamed" if phase.streamed else ""
    return f"{phase.name}: {gib(phase.held)} ({parts}){streams}{f', {phase.note}' if phase.note else ''}"


def _moves(plan: Plan) -> Iterator[str]:
    encoder, on_card = plan.models.text_encoder.kept, plan.card.memory == VRAM
    if plan.encoder_stays:
        yield "The text encoder stays beside the model: a new prompt moves nothing."
        return
    does, where = ("moves", "to the card") if on_card else ("reads", "from disk")
    yield f"A new prompt {does} the text encoder's {gib(encoder)} {where}; a repeated one {does} nothing."


def _ram(plan: Plan) -> Iterator[str]:
    """Where what leaves the card finds no room either."""
    encoder = 0 if plan.encoder_stays else plan.models.text_encoder.kept
    off_card = encoder + plan.sampling.streamed
    if plan.card.memory == VRAM and off_card > plan.card.ram - _RAM_FOR_OTHERS:
        yield f"RAM is short of the {gib(off_card)} that leave the card: they are read from disk again each time."


def _downloads(plan: Plan) -> Iterator[str]:
    files = (plan.models.diffusion_model, plan.models.text_encoder, plan.models.vae)
    missing = [file for file in files if file.to_download]
    if missing:
        each = ", ".join(f"{file.name} {file.to_download / 1e9:.1f}" for file in missing)
        yield f"To download: {sum(file.to_download for file in missing) / 1e9:.1f} GB ({each})."


def gib(nbytes: float) -> str:
    return f"{nbytes / GIB:.1f} GiB"


def _sentence(clause: str) -> str:
    """A clause that begins with a plain word, as a sentence begins; a file keeps its name."""
    return clause if ".safetensors" in clause.split(" ", 1)[0] else clause[0].upper() + clause[1:]
