"""What goes in and out of the hosted lane: who pays, what is asked, how it is to be done, what is heard, what comes."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import NOTHING_SENT, BadInput
from .images import Decoded, Encoded
from .keys import Hosts, Key, load_key
from .protocol import Metrics
from .request import KleinRequest
from .rows import Row

LONGEST_WAIT_S = 3300.0  # within the hour for which Segmind answers for a job by its request_id


@dataclass(frozen=True)
class Account:
    """Where jobs are kept, who pays, and which servers are asked."""

    directory: Path
    key: Key
    hosts: Hosts

    @classmethod
    def of(cls, directory: Path) -> Account:
        """Read anew each time, so that a key set meanwhile counts.

        Raises:
            SegmindError: there is no usable key, or a host variable is not a URL the key may go to.
        """
        return cls(directory, load_key(directory), Hosts.from_environment())


@dataclass(frozen=True)
class Order:
    """A request with the images that come before its `image_urls`."""

    request: KleinRequest
    references: tuple[Encoded, ...] = ()

    def fingerprint(self, base_url: str) -> str:
        return self.request.fingerprint([reference.sha256 for reference in self.references], base_url)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a run wants its jobs done, as the node's widgets have it.

    Attributes:
        timeout_s: when to stop waiting, 1 to 3300 seconds; the jobs themselves go on.
        on_item_error: "raise" the first error once all jobs have ended, or "skip" what failed.
        max_cost_usd: what may be spent under these terms; 0 for no limit.
        reuse: "auto", or "always_new" to pay for another picture of inputs that have one already; a job under way is
            shared all the same.
        budget: the name under which the journal counts what is spent against `max_cost_usd`.
    """

    timeout_s: float = 900.0
    on_item_error: str = "raise"
    max_cost_usd: float = 0.0
    reuse: str = "auto"
    budget: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)

    def __post_init__(self) -> None:
        good = self.on_item_error in ("raise", "skip") and self.reuse in ("auto", "always_new")
        if not good or not 1 <= self.timeout_s <= LONGEST_WAIT_S or not 0 <= self.max_cost_usd < float("inf"):
            raise BadInput(f"These terms are not possible: {self}", NOTHING_SENT, "Correct them")

    @property
    def always_new(self) -> bool:
        return self.reuse == "always_new"

    @property
    def cap_usd(self) -> float | None:
        return self.max_cost_usd or None


UPLOADING = "UPLOADING"  # of a job's progress only: in the journal it is still planned


@dataclass(frozen=True)
class Progress:
    """Where a job is.

    Attributes:
        job: the journal's row.
        state: a `State`, `UPLOADING`, or while ACCEPTED what the server last said (`Reported`, or a word of its own).
        waited_s: since the call.
        expected_s: the usual time from submit to picture.
        reused: nothing is paid for it now.
        estimate_usd: what it may cost, 0 where nobody has said.
    """

    job: int
    state: str
    waited_s: float
    expected_s: float
    request_id: str | None = None
    metrics: Metrics = field(default_factory=Metrics)
    reused: bool = False
    estimate_usd: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A finished job.

    Attributes:
        receipt: plain JSON: request_id, seed, costs, seconds, sha256; never a key.
    """

    decoded: Decoded
    receipt: dict[str, Any]

    @classmethod
    def of(
        cls, row: Row, decoded: Decoded, reused: bool, uploads: tuple[str, ...] = (), news: tuple[str, ...] = ()
    ) -> Picture:
        """With its receipt.

        Args:
            uploads: what was changed on the references before they left.
            news: what befell the journal.
        """
        receipt = {
            "request_id": row.request_id,
            "seed": row.seed,
            "cost_usd": row.cost_usd,
            "estimate_usd": row.reserved_usd or None,
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
        return cls(decoded, receipt)
