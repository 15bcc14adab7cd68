"""What a Segmind node says while it waits, and what it says at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.v0_0_2 import ComfyAPISync, io

from ...remote.service import AVERAGE_COST_USD, UPLOADING, Progress, Reported, State

SAID: dict[str, str] = {
    State.PLANNED: "Preparing",
    UPLOADING: "Uploading the images",
    State.SUBMITTING: "Sending",
    State.UNKNOWN: "No answer to the submit: looking for the job in the account's history",
    State.ACCEPTED: "Accepted",
    Reported.QUEUED: "In Segmind's queue",
    Reported.PROCESSING: "Being made",
    State.COMPLETED: "Fetching the picture",
    State.KEPT: "Done",
}


UNSENT = {State.PLANNED, UPLOADING, State.SUBMITTING}

STEPS = 100  # of a progress bar
PART_AT_EXPECTED = 0.9  # of a bar, when a job takes as long as usual; the rest is for those that take longer


def move_bar(node: type[io.ComfyNode], part: float) -> None:
    """Moves the bar of the running node; the node declares the unique_id hidden input."""
    ComfyAPISync().execution.set_progress(round(STEPS * part), STEPS, node_id=node.hidden.unique_id)


class Waiting:
    """Hears the progress of one run and shows it, each text once, so at most once a second.

    Args:
        show: puts text on the node.
        count: how many pictures the run asked for.
        move: moves the bar on the node to a part of it; never back, and only by what can be seen.
    """

    def __init__(
        self, show: Callable[[str], None], count: int, move: Callable[[float], None] = lambda part: None
    ) -> None:
        self._show, self._count, self._shown = show, count, ""
        self._move, self._moved = move, 0.0
        self._queued: dict[int, tuple[float, float]] = {}
        self._sent: dict[int, float] = {}

    def hear(self, jobs: Sequence[Progress | None]) -> None:
        known = [job for job in jobs if job]
        for job in known:
            self._note_queue(job)
            if job.state in UNSENT:
                self._sent[job.job] = job.waited_s
        text = f"{self._states(known)}. {_time_and_money(known, self._count)}"
        if text != self._shown:
            self._shown = text
            self._show(text)
        part = sum(_part_done(job, self._sent.get(job.job, 0.0)) for job in known) / self._count
        if round(STEPS * part) > round(STEPS * self._moved):
            self._moved = part
            self._move(part)

    def _note_queue(self, job: Progress) -> None:
        """When a job was first and last seen in the queue, in seconds since the run began."""
        if job.state == Reported.QUEUED:
            first, _ = self._queued.get(job.job, (job.waited_s, 0.0))
            self._queued[job.job] = first, job.waited_s

    def _states(self, known: list[Progress]) -> str:
        if self._count == 1:
            return self._state(known[0]) if known else SAID[State.PLANNED]
        states = [job.state for job in known]
        told = [f"{states.count(State.KEPT)} of {self._count} done"]
        told += [f"{states.count(s)} {_lower(SAID.get(s, s))}" for s in dict.fromkeys(states) if s != State.KEPT]
        return ", ".join(told)

    def _state(self, job: Progress) -> str:
        said = SAID.get(job.state, job.state)
        first, last = self._queued.get(job.job, (0.0, 0.0))
        if job.state == Reported.QUEUED:
            return f"{said} for {last - first:.0f} s"
        return f"{said}, after {last - first:.0f} s in the queue" if job.job in self._queued else said


def _part_done(job: Progress, sent_s: float) -> float:
    """Of one job by the time it usually takes: past that ever slower, so that the bar is full when the picture is.

    Args:
        sent_s: how long the run had waited when the job was last seen to wait for its turn.
    """
    if job.state == State.KEPT or not job.expected_s:
        return float(job.state == State.KEPT)
    part = (job.waited_s - sent_s) / job.expected_s
    return PART_AT_EXPECTED * part if part <= 1 else 1 - (1 - PART_AT_EXPECTED) / part


def finished(receipts: Sequence[dict[str, Any]], left_out: Sequence[str]) -> str:
    """The node's last word: what came, what it cost, what did not come and why."""
    paid = [receipt for receipt in receipts if not receipt["reused"]]
    told = [_pictures(receipts), _paid(paid, len(receipts))]
    if len(receipts) == 1:
        seconds = [(receipts[0][name], word) for name, word in _SECONDS]
        told += [f"{value:.1f} s {word}" for value, word in seconds if value is not None]
        told += [f"request {name}" for name in (receipts[0]["request_id"],) if name]
    balance = [receipt["remaining_usd"] for receipt in paid if receipt["remaining_usd"] is not None]
    if balance:
        told.append(f"${min(balance):.2f} left")
    notes = [note for receipt in receipts[:1] for note in (receipt["note"], *receipt["uploads"]) if note]
    return "\n".join([", ".join(told), *notes, *left_out])


_SECONDS = (("queue_seconds", "in the queue"), ("inference_seconds", "to make"))


def _pictures(receipts: Sequence[dict[str, Any]]) -> str:
    if len(receipts) == 1:
        return f"Seed {receipts[0]['seed']}" if receipts[0]["seed"] is not None else "Recovered"
    return f"{len(receipts)} pictures"


def _paid(paid: list[dict[str, Any]], count: int) -> str:
    if not paid:
        return "kept from before: nothing paid"
    known = [receipt["cost_usd"] for receipt in paid if receipt["cost_usd"] is not None]
    spent = f"${sum(known):.4f}" if known else "cost not reported"
    if known and len(known) < len(paid):
        spent += f" and {len(paid) - len(known)} of unknown cost"
    return f"{spent}, {count - len(paid)} kept from before" if len(paid) < count else spent


def _time_and_money(known: list[Progress], count: int) -> str:
    waited = max((job.waited_s for job in known), default=0.0)
    expected = max((job.expected_s for job in known), default=0.0)
    time = f"{waited:.0f} s of about {expected:.0f} s" if expected else f"{waited:.0f} s"
    to_pay = count - sum(job.reused for job in known)
    costs = [job.metrics.cost_usd for job in known if not job.reused]
    spent = sum(cost for cost in costs if cost is not None)
    estimate = max((job.estimate_usd for job in known), default=0.0) or AVERAGE_COST_USD
    price = f"about ${to_pay * estimate:.2f}" if to_pay else "nothing to pay"
    return f"{time}, ${spent:.4f} so far, {price} in all." if spent else f"{time}, {price}."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
