"""The one face of the hosted lane: all that the nodes know of it.

    run(account, requests, ...)      pictures for requests, from any event loop; the work is done on another
    recover(account, request_id)     one picture by its request_id
    balance(account)                 dollars left
    estimate_usd(directory)          dollars that the next picture may cost; no key, no network
    list_jobs(directory)             the journal, newest first; no key, no network
    kept_picture(name, directory)    a picture that is kept here; no key, no network

and the values that go in and out of them, the limits of a request, and the errors a person may see.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import explain, images
from .errors import NOTHING_SENT, Interrupted, SegmindError
from .journal import AVERAGE_COST_USD, read_estimate_usd
from .journal_restore import JOURNAL_FILE, VAULT_FOLDER, open_journal
from .keys import refuse_secrets
from .protocol import REQUEST_ID, Credits, Reported
from .redaction import RedactingFilter
from .request import (
    ASPECT_RATIOS,
    IMAGE_FORMATS,
    MAX_REFERENCES,
    MAX_SEED,
    SAMPLERS,
    KleinRequest,
    refuse_too_many_references,
)
from .rows import Row, State
from .values import UPLOADING, Account, Picture, Progress, Terms
from .vault import Vault

if TYPE_CHECKING:
    from .session import Session

__all__ = [
    "ASPECT_RATIOS", "AVERAGE_COST_USD", "IMAGE_FORMATS", "MAX_REFERENCES", "MAX_SEED", "SAMPLERS", "UPLOADING",
    "Account", "Interrupted", "KleinRequest", "Picture", "Progress", "RedactingFilter",
    "Reported", "Row", "SegmindError", "State", "Terms", "balance", "estimate_usd", "kept_picture", "list_jobs",
    "recover", "refuse_secrets", "refuse_too_many_references", "run",
]  # fmt: skip

_SESSIONS: dict[Account, Session] = {}
_LOCK = threading.Lock()


async def run(
    account: Account,
    requests: Sequence[KleinRequest],
    arrays: Sequence[npt.NDArray[np.float32]] = (),
    terms: Terms | None = None,
    *,
    on_progress: Callable[[list[Progress | None]], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    on_skip: Callable[[int, SegmindError], None] = lambda index, error: None,
) -> list[Picture]:
    """One picture per request, in order; what failed is left out where `terms` say so.

    Args:
        arrays: images to upload, in order, for every request; [height, width, 3 or 4] floats.
        on_progress: hears, on this thread, about every job; None for one that has not begun.
        cancelled: asked ten times a second.
        on_skip: hears of every request that is left out, by its place.

    Raises:
        Interrupted: `cancelled` said so. Jobs that were accepted go on and are kept.
        SegmindError: the first failure, or the only ones.
    """
    for request in requests:
        refuse_secrets(request.texts())
        refuse_too_many_references({"connected images": len(arrays), "image_urls": len(request.image_urls)})
    return await _session(account).run(requests, arrays, terms or Terms(), on_progress, cancelled, on_skip)


async def recover(
    account: Account, request_id: str, terms: Terms | None = None, cancelled: Callable[[], bool] = lambda: False
) -> Picture:
    """The picture of a job from this machine or another, by its request_id; costs nothing.

    Raises:
        BadInput: nothing has such a name.
        SegmindError: it failed, is lost, or has not ended before the deadline.
    """
    _refuse_odd_name(request_id)
    return await _session(account).recover(request_id, terms or Terms(), cancelled)


async def balance(account: Account) -> Credits:
    """Dollars left on the account; the cheapest way to learn whether a key works."""
    return await _session(account).balance()


def estimate_usd(directory: Path) -> float:
    """What a picture costs by the last jobs of this folder: what a run reserves, and its receipt calls its estimate."""
    return read_estimate_usd(directory / JOURNAL_FILE)


def list_jobs(directory: Path, limit: int = 100, tell: Callable[[str], None] = lambda sentence: None) -> list[Row]:
    """The journal, newest first.

    Args:
        tell: hears, in a sentence, of a journal that was lost and made anew.

    Raises:
        SegmindError: the disk does not let us, or a newer version of this pack wrote the journal.
    """
    with explain.on_disk(NOTHING_SENT), contextlib.closing(open_journal(directory, tell=tell)) as journal:
        return journal.rows(limit)


def kept_picture(name: str, directory: Path, tell: Callable[[str], None] = lambda sentence: None) -> Picture | None:
    """The picture of a job, by its request_id or the picture's sha256; None when it is not kept here.

    Args:
        tell: see `list_jobs`.

    Raises:
        BadInput: nothing has such a name.
        SegmindError: the disk does not let us read it, or it is not a picture that can be shown.
    """
    _refuse_odd_name(name)
    with explain.on_disk(NOTHING_SENT), contextlib.closing(open_journal(directory, tell=tell)) as journal:
        row = journal.shown(name)
        data = Vault(directory / VAULT_FOLDER).get(row.sha256) if row else None
    return Picture.of(row, images.decode(data), reused=True) if row and data else None


def _session(account: Account) -> Session:
    """One account has one session as long as the process lives: one rate limit, one owner of jobs."""
    from .session import Session  # late: with httpx, what a graph without Segmind never loads

    with _LOCK:
        return _SESSIONS.setdefault(account, Session(account))


def _refuse_odd_name(name: str) -> None:
    if not REQUEST_ID.fullmatch(name):
        raise explain.no_request_id(name)
