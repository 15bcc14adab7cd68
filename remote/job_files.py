"""One small file a job, beside the journal: what has been sent is known here even when the journal is not.

A job's file is made before its first byte leaves, by whoever makes it first. That is the second lock on a payment,
after the journal's compare-and-set: a journal that is lost, or is older than what has happened, sends no attempt
again. The file then learns the request_id and, before the row is KEPT, the picture's hash. It is dropped where there
is proof that nothing was or will be billed. Like the journal it holds of the prompt only its start, and never a key.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from . import durable
from .lenient_json import amount, loads, mapping
from .protocol import REQUEST_ID
from .request import MAX_SEED
from .rows import Row, State
from .vault import SHA256

_NAME = re.compile(r"((?:request )?[A-Za-z0-9_-]{8,64})\.([1-9][0-9]{0,8})\.json")
_REMEMBERED = (
    "prompt_start", "seed", "body_digest", "request_id", "sha256", "created_at", "submitted_at",
    "cost_usd", "remaining_usd", "queue_s", "inference_s",
)  # fmt: skip


class JobFiles:
    """A folder of them; several processes may use it at once. Blocks on the disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        durable.make_folder(directory)

    def begin(self, row: Row) -> bool:
        """Makes the file of an attempt that is about to be sent; False when there is one: it has been sent.

        Raises:
            OSError: the disk is full or read-only; there is no file, and nothing may be sent.
        """
        try:
            durable.create(self._path(row.fingerprint, row.attempt), _written(row))
        except FileExistsError:
            return False
        return True

    def update(self, row: Row) -> None:
        """Writes what is known now, all of it or nothing.

        Raises:
            OSError: the disk is full or read-only; the file says what it said.
        """
        durable.replace(self._path(row.fingerprint, row.attempt), _written(row))

    def drop(self, row: Row) -> None:
        """Forgets an attempt that is not billed; where the disk does not let us, that costs a question, no money."""
        with contextlib.suppress(OSError):
            self._path(row.fingerprint, row.attempt).unlink(missing_ok=True)

    def read(self, fingerprint: str, attempt: int) -> Row | None:
        """What the file knows, as a row that is KEPT, ACCEPTED or UNKNOWN; None where there is no file.

        One that was cut short or damaged is UNKNOWN: its name alone says that the attempt may have been sent.
        """
        path = self._path(fingerprint, attempt)
        try:
            text, made_at = path.read_bytes(), path.stat().st_mtime
        except FileNotFoundError:
            return None
        return _row(fingerprint, attempt, mapping(loads(text)), made_at)

    def attempts(self) -> set[tuple[str, int]]:
        """The fingerprint and attempt of every file."""
        names = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return {(name[1], int(name[2])) for name in names if name}

    def _path(self, fingerprint: str, attempt: int) -> Path:
        name = f"{fingerprint}.{attempt}.json"
        if not _NAME.fullmatch(name):
            raise ValueError(f"no job file has the name {name!r}")
        return self.directory / name


def _written(row: Row) -> bytes:
    return json.dumps({name: getattr(row, name) for name in _REMEMBERED}, indent=1).encode()


def _row(fingerprint: str, attempt: int, known: dict[str, Any], made_at: float) -> Row:
    """Its values where they are what they should be."""
    request_id, sha256, seed = known.get("request_id"), known.get("sha256"), known.get("seed")
    named = isinstance(request_id, str) and bool(REQUEST_ID.fullmatch(request_id))
    kept = named and isinstance(sha256, str) and bool(SHA256.fullmatch(sha256))
    created_at = amount(known.get("created_at")) or made_at
    return Row(
        id=0,
        fingerprint=fingerprint,
        attempt=attempt,
        state=State.KEPT if kept else State.ACCEPTED if named else State.UNKNOWN,
        prompt_start=_text(known.get("prompt_start")),
        seed=seed if isinstance(seed, int) and 0 <= seed <= MAX_SEED else None,
        body_digest=_text(known.get("body_digest")),
        request_id=request_id if named else None,
        sha256=str(sha256) if kept else "",
        created_at=created_at,
        submitted_at=amount(known.get("submitted_at")) or created_at,
        cost_usd=amount(known.get("cost_usd")),
        remaining_usd=amount(known.get("remaining_usd")),
        queue_s=amount(known.get("queue_s")),
        inference_s=amount(known.get("inference_s")),
    )


def _text(value: object) -> str:
    """Text that a database takes: without half characters."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""
