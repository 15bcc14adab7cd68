"""Segmind Jobs: what was sent, what it cost, and a picture back by its request_id."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from comfy_api.v0_0_2 import io

from ..remote import service
from .host.account import CancelButton, cancel_button, journal_folder, open_account, secret_because
from .host.newer_host import needs_host
from .host.pictures import as_batch
from .host.progress import finished
from .host.text import show_text

ASK_S = 0.1  # how late Cancel is seen
AGES = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))

T = TypeVar("T")


class SegmindJobs(io.ComfyNode):
    """Lists the journal, shows the balance and recovers a paid picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SegmindJobs",
            display_name="Segmind Jobs",
            category="Klein 9B/Segmind",
            description=(
                "Shows what Segmind Remote has sent from this machine: state, age, cost and the start of the prompt "
                "of each job, and the balance of the account. Give it a request_id and it brings that job's picture "
                "back. It never pays for anything."
            ),
            search_aliases=["segmind history", "recover", "balance", "credits", "request_id", "segmind"],
            inputs=[
                io.String.Input(
                    "request_id",
                    default="",
                    tooltip="The job to bring back, from this list, a receipt, an error or Segmind's console. Left "
                    "empty, only the list is shown and nothing leaves the image outputs.",
                ),
                io.Int.Input("limit", default=20, min=1, max=500, tooltip="How many jobs to list, newest first."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The recovered picture."),
                io.Mask.Output(display_name="mask", tooltip="1 where the picture is transparent."),
                io.String.Output(display_name="jobs", tooltip="The list and the balance, as text."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, request_id: str | None = None) -> bool | str:
        """Refuses a key before the prompt is queued, as SegmindRemote does: it has the shape of a request_id."""
        return secret_because(request_id=request_id) or True

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        """Jobs move on and money is spent between two runs, so the host's cache must not answer."""
        return uuid.uuid4().hex

    @classmethod
    async def execute(cls, request_id: str, limit: int) -> io.NodeOutput:
        service.refuse_secrets({"request_id": request_id})
        try:
            return await cls._show(request_id.strip(), limit)
        except asyncio.CancelledError:  # see SegmindRemote
            return io.NodeOutput(block_execution="The run ended before the list came.")

    @classmethod
    async def _show(cls, request_id: str, limit: int) -> io.NodeOutput:
        cancel, nothing = cancel_button(), _nothing()
        news: list[str] = []
        picture = await cls._recovered(request_id, cancel, news.append) if request_id else None
        rows = await asyncio.to_thread(service.list_jobs, journal_folder(), limit, news.append)
        text = "\n".join([await _balance(cancel), *news, *(_line(row, time.time()) for row in rows)])
        told = [finished([picture.receipt], [])] if picture else []
        show_text(cls, "\n".join([*told, text]))
        image, mask = as_batch([picture]) if picture else (nothing, nothing)
        return io.NodeOutput(image, mask, text, ui={"text": (text,)})

    @classmethod
    async def _recovered(cls, request_id: str, cancel: CancelButton, tell: Callable[[str], None]) -> service.Picture:
        kept = await asyncio.to_thread(service.kept_picture, request_id, journal_folder(), tell)
        if kept:
            return kept
        account = open_account()
        show_text(cls, f"Fetching {request_id}")
        return await _interruptible(service.recover(account, request_id), cancel)


async def _balance(cancel: CancelButton) -> str:
    """The account's balance, or why it is not known; the list is worth having without it."""
    try:
        credits = await _interruptible(service.balance(open_account()), cancel)
    except service.SegmindError as error:
        return f"Balance: not known. {error.what}"
    free = f" and ${credits.free_usd:.2f} free" if credits.free_usd else ""
    return f"Balance: ${credits.paid_usd:.2f}{free}"


@needs_host()
def _nothing() -> Any:
    """What keeps whatever is connected to an output from running."""
    import comfy_execution.graph_utils

    return comfy_execution.graph_utils.ExecutionBlocker(None)


async def _interruptible(work: Coroutine[Any, Any, T], cancel: CancelButton) -> T:
    """Runs it until it ends or the person presses Cancel, which ends it with the host's own error."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done() and not cancel.pressed():
            await asyncio.wait([task], timeout=ASK_S)
    finally:
        task.cancel()
    if not task.done():
        raise cancel.ended
    return task.result()


def _line(row: service.Row, now: float) -> str:
    cost = "cost unknown" if row.cost_usd is None else f"${row.cost_usd:.4f}"
    name = row.request_id or (f"picture {row.sha256}" if row.sha256 else "no request_id")
    told = [row.state, f"{_age(now - row.created_at)} ago", cost, name]
    note = f" ({row.note})" if row.note else ""
    return " | ".join([*told, row.prompt_start.replace("\n", " ") or "prompt not known here"]) + note


def _age(seconds: float) -> str:
    for unit, name in AGES:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
