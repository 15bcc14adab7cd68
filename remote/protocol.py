"""The v2 wire protocol as frozen values: the one place that knows body shapes and what status codes mean.

    KleinRequest                     -> the bytes of POST /v2/flux-2-klein-9b
    read_submit(reply)               -> Accepted | Rejection | Unknown
    read_status / read_result / ...  -> the value, or Retry (ask again), or Rejection (final)

Nothing here does I/O. Addresses that the server returns for status and result are never used: both are
derived from `request_id`. Shapes are those of the published page, of the official SDK 1.3.0 and of clients
written against the live service; the live service itself was not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import quote

from .dates import DAY_S, moment
from .lenient_json import amount, from_base64, loads, mapping, one_line
from .media_types import media_type_of
from .request import SLUG, body_digest, read_inputs

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")

MAX_DEPTH = 8

SUBMIT_PATH = f"/v2/{SLUG}"
CREDITS_PATH = "/v1/get-user-credits"
UPLOAD_PATH = "/upload-asset"
HISTORY_PAGE = 100
KEEPS_S = 7 * DAY_S  # how long Segmind keeps a picture and the record that leads to it
HISTORY_PATH = "/inference-request/request-history"


@dataclass(frozen=True)
class Reply:
    """One HTTP reply, read to its end.

    Attributes:
        hint_s: seconds the server asked us to wait, where it said so.
        skew_s: the server's clock minus ours.
    """

    status: int
    body: bytes
    hint_s: float | None = None
    skew_s: float = 0.0


@dataclass(frozen=True)
class NotSent:
    """The connection failed before a byte of the request left: sending again is safe."""

    why: str


@dataclass(frozen=True)
class Unknown:
    """The request may have been accepted: it is never sent again, only looked for."""

    why: str


@dataclass(frozen=True)
class Rejection:
    """The server answered no. `throttled` (429) may be tried again; the rest is final."""

    status: int
    words: str
    hint_s: float | None = None

    @property
    def throttled(self) -> bool:
        return self.status == 429


@dataclass(frozen=True)
class Accepted:
    request_id: str


@dataclass(frozen=True)
class Retry:
    """A GET that gave no answer; asking again costs nothing.

    Attributes:
        status: HTTP status code, None where there was no reply.
        connected: whether the host could be reached at all.
    """

    why: str
    hint_s: float | None = None
    status: int | None = None
    connected: bool = True


@dataclass(frozen=True)
class Metrics:
    """Seconds and dollars as the server reports them; None where it does not."""

    cost_usd: float | None = None
    remaining_usd: float | None = None
    queue_s: float | None = None
    inference_s: float | None = None


class Reported(str, Enum):
    """What Segmind says of a job. Its COMPLETED is a picture that is made, the journal's one whose address is known."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"

    __str__ = str.__str__


@dataclass(frozen=True)
class Status:
    """Where a job is.

    Attributes:
        state: one of `Reported`, or a word in upper case that we do not know yet.
    """

    state: str
    error: str = ""
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Source:
    """Where the picture is: at an address, or in the reply itself."""

    url: str = ""
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Result:
    source: Source
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Record:
    """One request as the account's history shows it.

    Attributes:
        inputs: its parameters; empty, as is `body_digest`, where the history does not tell them.
    """

    request_id: str
    state: str
    body_digest: str
    inputs: dict[str, Any] = field(default_factory=dict)
    created_at: float | None = None
    url: str = ""
    error: str = ""
    cost_usd: float | None = None


@dataclass(frozen=True)
class Credits:
    """Dollars, as `get-user-credits` gives them."""

    paid_usd: float
    free_usd: float


def status_path(request_id: str) -> str:
    return f"/v2/requests/{_checked(request_id)}/status"


def result_path(request_id: str) -> str:
    return f"/v2/requests/{_checked(request_id)}"


def record_path(request_id: str) -> str:
    return f"{HISTORY_PATH}/{quote(_checked(request_id), safe='')}"


def request_named(reply: Reply) -> str | None:
    """The request that a reply says it is about; None where it does not say."""
    body = mapping(_json(reply))
    named = body.get("request_id") or mapping(body.get("data")).get("request_id")
    return named if isinstance(named, str) else None


def read_submit(reply: Reply) -> Accepted | Rejection | Unknown:
    if 400 <= reply.status < 500 and reply.status not in (408, 425):
        return Rejection(reply.status, words_of(reply), reply.hint_s)
    if not 200 <= reply.status < 300:
        return Unknown(f"the server answered {reply.status}: {words_of(reply)}")
    request_id = mapping(_json(reply)).get("request_id")
    if isinstance(request_id, str) and REQUEST_ID.fullmatch(request_id):
        return Accepted(request_id)
    return Unknown(f"the server answered {reply.status} without a request_id that can be used")


def read_status(reply: Reply) -> Status | Retry | Rejection:
    """A FAILED job comes as HTTP 422; a body that names a final state counts whatever its HTTP code."""
    body = mapping(_json(reply))
    status = _status(body)
    if status and status.state in (Reported.COMPLETED, Reported.FAILED):
        return status
    refused = _not_ok(reply)
    return refused or status or Retry("the status reply has no state", reply.hint_s, reply.status)


def read_result(reply: Reply) -> Result | Status | Retry | Rejection:
    """A `Status` means the job is not, or not successfully, over."""
    if 200 <= reply.status < 300 and media_type_of(reply.body):
        return Result(Source(data=reply.body))
    body = mapping(_json(reply))
    status = _status(body)
    if status and status.state == Reported.FAILED:
        return status
    refused = _not_ok(reply)
    if refused:
        return refused
    source = next(_sources(body), None)
    if source and (status is None or status.state == Reported.COMPLETED):
        return Result(source, _metrics(body))
    if status and status.state != Reported.COMPLETED:
        return status
    return Retry("the result is empty", reply.hint_s, reply.status)


def read_upload(reply: Reply, count: int) -> tuple[str, ...] | Retry | Rejection:
    """Addresses in the order of what was sent."""
    refused = _not_ok(reply)
    if refused:
        return refused
    body = mapping(_json(reply))
    found = next((body[name] for name in ("file_urls", "urls", "url") if body.get(name)), None)
    urls = [found] if isinstance(found, str) else found
    if isinstance(urls, list) and len(urls) == count and all(isinstance(url, str) and url for url in urls):
        return tuple(urls)
    return Retry(f"the upload reply does not name {count} addresses", reply.hint_s, reply.status)


def read_credits(reply: Reply) -> Credits | Retry | Rejection:
    """An account that never had credits answers 404, which means zero."""
    if reply.status == 404 and "no credits" in words_of(reply).lower():
        return Credits(0.0, 0.0)
    refused = _not_ok(reply)
    if refused:
        return refused
    body = mapping(_json(reply))
    paid, free = amount(body.get("credits")), amount(body.get("free-credits"))
    if paid is None and free is None:
        return Retry("the credits reply has no amount", reply.hint_s, reply.status)
    return Credits(paid or 0.0, free or 0.0)


def read_history(reply: Reply) -> tuple[Record, ...] | Retry | Rejection:
    refused = _not_ok(reply)
    if refused:
        return refused
    entries = mapping(_json(reply)).get("data")
    if not isinstance(entries, list):
        return Retry("the history reply has no requests", reply.hint_s, reply.status)
    return tuple(record for record in map(_record, entries) if record)


def read_record(reply: Reply) -> Record | Retry | Rejection:
    refused = _not_ok(reply)
    if refused:
        return refused
    body = mapping(_json(reply))
    record = _record(body) or _record(body.get("data"))
    return record or Retry("the history reply has no request", reply.hint_s, reply.status)


def read_download(reply: Reply) -> bytes | Retry | Rejection:
    refused = _not_ok(reply)
    if refused:
        return refused
    return reply.body or Retry("the picture is empty", reply.hint_s, reply.status)


def words_of(reply: Reply) -> str:
    """What the server said, on one line: JSON `error`, `detail`, `message`; plain text; never markup."""
    said = " / ".join(_said(_json(reply)))
    if not said:
        text = reply.body[:4096].decode("utf-8", "replace").strip()
        said = "" if text[:1] in ("{", "[") or media_type_of(reply.body) else text
        if "<" in said[:64]:
            title = re.search(r"<title[^>]*>([^<]*)", said, re.IGNORECASE)
            said = title.group(1) if title else "a web page instead of an answer"
    return one_line(said) or "no explanation"


def _not_ok(reply: Reply) -> Retry | Rejection | None:
    """For GETs and uploads, which cost nothing to repeat."""
    if 200 <= reply.status < 300:
        return None
    if 300 <= reply.status < 400:
        return Rejection(reply.status, "a redirect, which Segmind's API does not use; it was not followed")
    if reply.status in (408, 425, 429) or reply.status >= 500:
        return Retry(f"the server answered {reply.status}: {words_of(reply)}", reply.hint_s, reply.status)
    return Rejection(reply.status, words_of(reply), reply.hint_s)


def _status(body: dict[str, Any]) -> Status | None:
    state = body.get("status")
    if not isinstance(state, str) or not state.strip():
        return None
    return Status(one_line(state).upper(), one_line(" / ".join(_said(body))), _metrics(body))


def _metrics(body: dict[str, Any]) -> Metrics:
    given = mapping(body.get("metrics"))
    names = ("cost", "remaining_credits", "queue_time", "inference_time")
    return Metrics(*(amount(given.get(name)) for name in names))


def _record(entry: object) -> Record | None:
    entry = mapping(entry)
    request_id = entry.get("request_id")
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        return None
    url, state = entry.get("generation_url"), entry.get("model_status") or entry.get("status")
    return Record(
        request_id=request_id,
        state=one_line(state).upper() if isinstance(state, str) else "",
        body_digest=body_digest(entry.get("request_body")),
        inputs=read_inputs(entry.get("request_body")),
        created_at=moment(entry.get("model_created") or entry.get("created_at")),
        url=url if isinstance(url, str) else "",
        error=one_line(" / ".join(_said(entry))),
        cost_usd=amount(entry.get("credits_deduction")),
    )


def _sources(value: object, depth: int = 0) -> Iterator[Source]:
    """Pictures in the order of preference: `images` before `output` before `image` and `url`."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for name in ("images", "output", "image", "image_url", "url"):
            yield from _sources(value.get(name), depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _sources(item, depth + 1)
    elif isinstance(value, str):
        yield from _source_of(value.strip(), depth)


def _source_of(text: str, depth: int) -> Iterator[Source]:
    if text.startswith(("http://", "https://")):
        yield Source(url=text)
    elif text[:1] in ("{", "["):
        yield from _sources(loads(text), depth + 1)
    elif text:
        data = from_base64(text.partition(",")[2] if text.startswith("data:") else text)
        if media_type_of(data):
            yield Source(data=data)


def _said(body: object, depth: int = 0) -> Iterator[str]:
    """Error texts in a JSON body, FastAPI's list of {loc, msg} included."""
    if depth > MAX_DEPTH:
        return
    if isinstance(body, str):
        yield body
    elif isinstance(body, list):
        for item in body[:8]:
            yield from _said(item, depth + 1)
    elif isinstance(body, dict) and isinstance(body.get("msg"), str):
        where = body.get("loc")
        yield ".".join(map(str, where)) + ": " + body["msg"] if isinstance(where, list) else body["msg"]
    elif isinstance(body, dict):
        for name in ("error", "detail", "message", "error_description"):
            if isinstance(body.get(name), (str, list, dict)):
                yield from _said(body[name], depth + 1)


def _json(reply: Reply) -> object:
    return None if media_type_of(reply.body) else loads(reply.body)


def _checked(request_id: str) -> str:
    if not REQUEST_ID.fullmatch(request_id):
        raise ValueError("not a request_id")
    return request_id
