"""What needs no key and no network: the list of jobs, and a picture that is kept here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import explain, images
from .errors import NOTHING_SENT
from .images import Decoded
from .journal_restore import VAULT_FOLDER, open_journal
from .rows import Row
from .vault import Vault


@dataclass(frozen=True)
class Picture:
    """A finished job. `receipt` is plain JSON: request_id, seed, costs, seconds, sha256; never a key."""

    decoded: Decoded
    receipt: dict[str, Any]


Tell = Callable[[str], None]


def list_jobs(directory: Path, limit: int = 100, tell: Tell = lambda sentence: None) -> list[Row]:
    """The journal, newest first.

    Args:
        tell: hears, in a sentence, of a journal that was lost and made anew.

    Raises:
        SegmindError: the disk does not let us, or a newer version of this pack wrote the journal.
    """
    with explain.on_disk(NOTHING_SENT), contextlib.closing(open_journal(directory, tell=tell)) as journal:
        return journal.rows(limit)


def kept_picture(name: str, directory: Path, tell: Tell = lambda sentence: None) -> Picture | None:
    """The picture of a job, by its request_id or the picture's sha256; None when it is not kept here.

    Args:
        tell: see `list_jobs`.

    Raises:
        SegmindError: the disk does not let us read it, or it is not a picture that can be shown.
    """
    with explain.on_disk(NOTHING_SENT), contextlib.closing(open_journal(directory, tell=tell)) as journal:
        row = journal.shown(name)
        data = Vault(directory / VAULT_FOLDER).get(row.sha256) if row else None
    return picture_of(row, images.decode(data), reused=True) if row and data else None


def picture_of(
    row: Row, decoded: Decoded, reused: bool, uploads: tuple[str, ...] = (), news: tuple[str, ...] = ()
) -> Picture:
    receipt = {
        "request_id": row.request_id,
        "seed": row.seed,
        "cost_usd": row.cost_usd,
        "remaining_usd": row.remaining_usd,
        "queue_seconds": row.queue_s,
        "inference_seconds": row.inference_s,
        "sha256": row.sha256,
        "width": decoded.width,
        "height": decoded.height,
        "media_type": decoded.media_type,
        "reused": reused,
        "note": "; ".join(note for note in (decoded.note, *news) if note),
        "uploads": list(uploads),
    }
    return Picture(decoded, receipt)
