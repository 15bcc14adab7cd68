"""A request as the fake saw it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .wire import Headers, header

# Larger bodies (uploads) lie on disk, so that a long test run keeps its memory.
SPOOL_BYTES = 64 * 1024


@dataclass(frozen=True)
class RecordedRequest:
    """One request: which host (``role``), which ``route``, and everything that was sent.

    ``at`` is the fake's clock in seconds; ``fault`` names the scripted fault it met, if any.
    """

    role: str
    route: str
    method: str
    target: str
    headers: Headers
    at: float
    fault: str | None = None
    body_length: int = 0
    stored: bytes | Path = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def body(self) -> bytes:
        return self.stored if isinstance(self.stored, bytes) else self.stored.read_bytes()

    def header(self, name: str) -> str | None:
        """The first value of a header, by lower-case name."""
        return header(self.headers, name)

    def json(self) -> Any:
        return json.loads(self.body)

    def carries(self, text: str) -> bool:
        """Whether the target, a header or the body contains ``text``."""
        places = [self.target, *(value for _, value in self.headers)]
        return any(text in place for place in places) or text.encode() in self.body
