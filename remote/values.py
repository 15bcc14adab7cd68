"""What a run asks for, how it wants it done, and what it hears meanwhile."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from .errors import NOTHING_SENT, BadInput
from .images import Encoded
from .protocol import Metrics
from .request import KleinRequest


@dataclass(frozen=True)
class Order:
    """A request with the images that come before its `image_urls`."""

    request: KleinRequest
    references: tuple[Encoded, ...] = ()

    def fingerprint(self, base_url: str) -> str:
        return self.request.fingerprint([reference.sha256 for reference in self.references], base_url)


@dataclass(frozen=True)
class Terms:
    """How a run wants its jobs done.

    Args:
        timeout_s: when to stop waiting; the job itself goes on.
        always_new: pay for another even where there is a picture already; a job under way is shared.
        budget: names the run whose costs count against `max_cost_usd`.
    """

    timeout_s: float = 900.0
    always_new: bool = False
    budget: str = ""
    max_cost_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run goes, as the node's widgets have it.

    Args:
        timeout_s: when to stop waiting, 1 to 3300.
        on_item_error: "raise" the first error once all jobs have ended, or "skip" what failed.
        max_cost_usd: what this run may spend; 0 for no limit.
        reuse: "auto", or "always_new" to pay for another picture of inputs that have one already.
    """

    timeout_s: float = 900.0
    on_item_error: str = "raise"
    max_cost_usd: float = 0.0
    reuse: str = "auto"

    def __post_init__(self) -> None:
        good = self.on_item_error in ("raise", "skip") and self.reuse in ("auto", "always_new")
        if not good or not 1 <= self.timeout_s <= 3300 or not 0 <= self.max_cost_usd < float("inf"):
            raise BadInput(f"These options are not possible: {self}", NOTHING_SENT, "Correct them")

    def terms(self) -> Terms:
        cap = self.max_cost_usd or None
        return Terms(self.timeout_s, self.reuse == "always_new", uuid.uuid4().hex, cap)


UPLOADING = "UPLOADING"  # of a job's progress only: in the journal it is still planned


@dataclass(frozen=True)
class Progress:
    """Where a job is.

    Args:
        job: the journal's row.
        state: a `State`, `UPLOADING`, or while ACCEPTED what the server last said (`Reported`, or a word of its own).
        waited_s: since the call.
        expected_s: the usual time from submit to picture.
        reused: nothing is paid for it now.
    """

    job: int
    state: str
    waited_s: float
    expected_s: float
    request_id: str | None = None
    metrics: Metrics = field(default_factory=Metrics)
    reused: bool = False
