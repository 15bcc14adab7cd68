"""What a run asks for, how it wants it done, and what it hears meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Progress:
    """Where a job is.

    Args:
        job: the journal's row.
        state: one of the journal's, UPLOADING, or while ACCEPTED what the server last said.
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
