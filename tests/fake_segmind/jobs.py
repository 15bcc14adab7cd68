"""The clock, the jobs and the money: a job is charged when it completes, whoever is listening."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .settings import Settings

RECORD_SECONDS = 3600.0
FILE_SECONDS = 7 * 86400.0
# Mean price of one flux-2-klein-9b image in Segmind's published list, USD.
PRICE = 0.0402


class Clock:
    """Wall time that tests can move, or hurry from its beginning on. Everything that expires or takes time reads it.

    Attributes:
        pace: its seconds in one of the world's.
    """

    def __init__(self) -> None:
        self.pace, self._offset, self._start = 1.0, 0.0, time.time()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._start + (time.time() - self._start) * self.pace + self._offset

    def advance(self, seconds: float) -> None:
        """Move every later reading by ``seconds``."""
        self._offset += seconds


class Shape(str, Enum):
    """How a result body carries its picture; all were seen in code written against the service."""

    URL = "url"
    IMAGES = "images"
    IMAGE_STRINGS = "image_strings"
    LIST = "list"
    BASE64 = "base64"
    DATA_URI = "data_uri"
    NESTED = "nested"
    NESTED_URL = "nested_url"
    TOP_IMAGE = "top_image"
    BYTES = "bytes"


@dataclass(frozen=True)
class Behaviour:
    """How a job goes. Seconds of the fake's clock; ``cost`` in USD per output; ``error`` makes it FAILED."""

    queue_seconds: float = 0.0
    run_seconds: float = 0.0
    error: str | None = None
    cost: float = PRICE
    shape: Shape = Shape.IMAGES
    outputs: int = 1

    @property
    def price(self) -> float:
        """USD for the whole job."""
        return self.cost * self.outputs

    @classmethod
    def moderated(cls) -> Behaviour:
        """A content block, which the service reports as an ordinary failure."""
        return cls(error="Prompt rejected: the request was flagged by content moderation (RAI).")


@dataclass(frozen=True)
class Job:
    """An accepted request. Its state is a function of the clock."""

    request_id: str
    slug: str
    body: Mapping[str, Any]
    created: float
    behaviour: Behaviour
    via: str
    seed: int

    @property
    def started(self) -> float:
        return self.created + self.behaviour.queue_seconds

    @property
    def finished(self) -> float:
        return self.started + self.behaviour.run_seconds

    @property
    def failed(self) -> bool:
        return self.behaviour.error is not None

    @property
    def cost(self) -> float:
        """USD, taken when the job completes."""
        return self.behaviour.price

    @property
    def image_format(self) -> str:
        return str(self.body.get("image_format", "png"))

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names on the image host, one per output."""
        return tuple(f"{self.request_id}-{i}.{self.image_format}" for i in range(self.behaviour.outputs))

    def state(self, now: float) -> str:
        if now < self.started:
            return "QUEUED"
        if now < self.finished:
            return "PROCESSING"
        return "FAILED" if self.failed else "COMPLETED"


@dataclass(frozen=True)
class Charge:
    """Money taken, USD, and what for."""

    request_id: str
    amount: float
    at: float
    balance: float
    body: Mapping[str, Any]


def body_key(body: object) -> str:
    """The canonical JSON text that charges are grouped by."""
    return json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass
class JobBook:
    """Every job ever accepted and every charge made. Safe to read from any thread."""

    clock: Clock
    settings: Settings
    _jobs: dict[str, Job] = field(default_factory=dict)
    _charges: dict[str, Charge] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def submit(self, slug: str, body: Mapping[str, Any], behaviour: Behaviour, via: str = "v2") -> Job:
        """Accept a job. Nothing is charged yet."""
        request_id = str(uuid.uuid4())
        job = Job(request_id, slug, body, self.clock.now(), behaviour, via, _seed(body, request_id))
        with self._lock:
            self._jobs[request_id] = job
        return job

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, oldest first."""
        with self._lock:
            return tuple(self._jobs.values())

    def find(self, request_id: str) -> Job | None:
        """A job of any age."""
        with self._lock:
            return self._jobs.get(request_id)

    def record(self, request_id: str) -> Job | None:
        """A job whose v2 record is still kept: an hour after it finished it is gone."""
        job = self.find(request_id)
        return job if job and self.clock.now() <= job.finished + RECORD_SECONDS else None

    def file(self, name: str) -> tuple[Job, int] | None:
        """The job and index behind a name on the image host, for seven days after it finished."""
        job = self.find(name[:36])
        now = self.clock.now()
        if job is None or job.state(now) != "COMPLETED" or now > job.finished + FILE_SECONDS:
            return None
        return (job, job.file_names.index(name)) if name in job.file_names else None

    def charges(self) -> tuple[Charge, ...]:
        """Charges so far, in the order the jobs completed."""
        with self._lock:
            self._settle()
            return tuple(self._charges.values())

    def charge_of(self, request_id: str) -> Charge | None:
        with self._lock:
            self._settle()
            return self._charges.get(request_id)

    def balance(self) -> float:
        """Credits left, USD."""
        with self._lock:
            self._settle()
            return self._left()

    def charges_by_body(self) -> Counter[str]:
        """How often each request body was charged, keyed by ``body_key``."""
        return Counter(body_key(charge.body) for charge in self.charges())

    def _left(self) -> float:
        return round(self.settings.credits - sum(charge.amount for charge in self._charges.values()), 6)

    def _settle(self) -> None:
        now = self.clock.now()
        due = [job for job in self._jobs.values() if job.request_id not in self._charges]
        done = [job for job in due if job.state(now) == "COMPLETED"]
        for job in sorted(done, key=lambda job: job.finished):
            balance = round(self._left() - job.cost, 6)
            self._charges[job.request_id] = Charge(job.request_id, job.cost, job.finished, balance, job.body)


def _seed(body: Mapping[str, Any], request_id: str) -> int:
    """The seed a job runs with; -1 asks the service to draw one."""
    asked = body.get("seed", 3425234)
    wanted = asked if isinstance(asked, int) and not isinstance(asked, bool) else 0
    return random.Random(request_id).randrange(2**32) if wanted < 0 else wanted
