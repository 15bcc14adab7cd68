"""The hosts beside the gateway: storage, account history, images, and the one that must never see a key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote

from . import picture
from .jobs import Job
from .recorded import RecordedRequest
from .routes import INVALID_KEY, MIME, MISSING_KEY
from .service import Service
from .wire import Reply, error_reply, html_reply, json_reply, parse_object

MAX_WINDOW_DAYS = 31
OWNER = {"user_id": "8f14e45f-ceea-467a-9575-6b0d2a4ba8b1", "user_email": "artist@example.com"}
MISSING_FILE = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>'
HISTORY_STATES = {"QUEUED": "PENDING", "PROCESSING": "PENDING", "COMPLETED": "COMPLETED", "FAILED": "FAILED"}
SORT_KEYS = ("model_created", "model_name", "credits_deduction")

Row = dict[str, Any]


class Storage:
    """POST /upload-asset: data URLs in, public URLs out, in order. Not billed."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, request: RecordedRequest) -> Reply:
        if request.route != "upload":
            return html_reply(404)
        if request.method != "POST":
            return html_reply(405)
        if request.header("x-api-key") != self.service.key:
            return error_reply(INVALID_KEY if request.header("x-api-key") else MISSING_KEY, 401)
        if request.body_length > self.service.settings.max_upload_bytes:
            return html_reply(413)
        return await asyncio.to_thread(self._keep, request.body)

    def _keep(self, body: bytes) -> Reply:
        data_urls = (parse_object(body) or {}).get("data_urls")
        if not isinstance(data_urls, list) or not data_urls:
            return error_reply("data_urls must be a non-empty list", 400)
        urls = [self.service.store(str(url)) for url in data_urls]
        if None in urls:
            return error_reply("data_urls must hold base64 data URLs", 400)
        key = self.service.settings.upload_key
        found = urls[0] if key == "url" and len(urls) == 1 else urls
        return json_reply({key: found, "message": "Files uploaded successfully"})


class Images:
    """The public, keyless image host."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, request: RecordedRequest) -> Reply:
        if request.method != "GET":
            return html_reply(405)
        name = request.path.rpartition("/")[2]
        find = self._output if request.route == "output" else self._asset
        return await asyncio.to_thread(find, name)

    def _output(self, name: str) -> Reply:
        found = self.service.book.file(name)
        if found is None:
            return Reply(404, MISSING_FILE, "application/xml")
        return Reply(200, self.service.render(*found), MIME[found[0].image_format])

    def _asset(self, name: str) -> Reply:
        data = self.service.asset(name)
        if data is None:
            return Reply(404, MISSING_FILE, "application/xml")
        return Reply(200, data, f"image/{name.rpartition('.')[2]}")


class Evil:
    """A persuasive impostor: it answers like the gateway so that a careless client keeps talking to it."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, request: RecordedRequest) -> Reply:
        if request.path.endswith((".png", ".jpeg", ".webp")):
            return Reply(200, self._picture(), "image/png")
        if request.path.endswith("/status"):
            return json_reply({"status": "COMPLETED"})
        if "/requests/" in request.path:
            return json_reply({"status": "COMPLETED", "output": f"{self.service.urls['evil']}/stolen.png"})
        return json_reply({"request_id": "stolen", "status": "QUEUED", "file_urls": [], "data": []})

    def _picture(self) -> bytes:
        sketch = picture.Sketch("from a host that is not Segmind", 0, (), "1:1", 64 * 64)
        return picture.encode(picture.draw(sketch), "png", 90)


class Account:
    """Request history and generations, as the official client reads them."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def answer(self, request: RecordedRequest) -> Reply:
        if request.method != "GET":
            return html_reply(405)
        if request.route == "models":
            return self._models()
        if request.header("x-api-key") != self.service.key:
            return self._unauthorised(request)
        pages: dict[str, Callable[[RecordedRequest], Reply]] = {
            "history": self._history,
            "history_item": self._item,
            "generations": self._generations,
            "recent": self._recent,
        }
        page = pages.get(request.route)
        return page(request) if page else html_reply(404)

    def _models(self) -> Reply:
        """The public catalogue. The misspelt key is the service's own."""
        return json_reply([{"slug": slug, "is_depreciated": False} for slug in self.service.settings.slugs])

    def _unauthorised(self, request: RecordedRequest) -> Reply:
        what = "API key is invalid." if request.header("x-api-key") else "Token is missing."
        body = {"error": "invalid_token", "error_description": what, "status_code": 401}
        return json_reply(body, 401)

    def _history(self, request: RecordedRequest) -> Reply:
        query = request.query
        try:
            first, last = self._window(query.get("from_date"), query.get("to_date"))
            page, per_page = _paging(query)
        except ValueError as error:
            return error_reply(str(error), 400)
        jobs = [job for job in self._visible() if first <= _day(job.created) <= last and _matches(job, query)]
        rows = [row for job in jobs for row in self._rows(job)]
        wanted = query.get("status")
        rows = [row for row in rows if wanted in (None, row["model_status"])]
        return json_reply(_page(_sorted(rows, query), page, per_page))

    def _window(self, first: str | None, last: str | None) -> tuple[date, date]:
        """Both ends inclusive; the last seven days unless asked otherwise."""
        today = _day(self.service.clock.now())
        end = date.fromisoformat(last) if last else today
        start = date.fromisoformat(first) if first else today - timedelta(days=7)
        if (end - start).days > MAX_WINDOW_DAYS:
            raise ValueError(f"The window may span at most {MAX_WINDOW_DAYS} days")
        return start, end

    def _item(self, request: RecordedRequest) -> Reply:
        request_id = unquote(request.path.rpartition("/")[2])
        job = next((job for job in self._visible() if job.request_id == request_id), None)
        return json_reply(self._rows(job)[0]) if job else error_reply(f"Request {request_id} not found", 404)

    def _visible(self) -> Iterator[Job]:
        """Rows land ``history_lag_seconds`` after the request was made."""
        newest = self.service.clock.now() - self.service.settings.history_lag_seconds
        return (job for job in self.service.book.jobs() if job.created <= newest)

    def _rows(self, job: Job) -> list[Row]:
        """One row per output, each with the request's full cost."""
        now = self.service.clock.now()
        state = HISTORY_STATES[job.state(now)]
        charge = self.service.book.charge_of(job.request_id)
        row = {
            "request_id": job.request_id,
            "model_name": job.slug,
            "model_status": state,
            "model_created": _iso(job.created),
            "model_updated": _iso(min(now, job.finished)),
            "credits_deduction": charge.amount if charge else 0.0,
            "request_body": self._body(job),
            "generation_url": None,
            "latency_ms": round((job.finished - job.created) * 1000) if now >= job.finished else None,
            "error": job.behaviour.error if state == "FAILED" else None,
        }
        urls = self.service.output_urls(job) if state == "COMPLETED" else [None]
        return [{**row, "generation_url": url} for url in urls]

    def _body(self, job: Job) -> object:
        body = {**job.body, **self.service.settings.history_extra}
        if self.service.settings.history_body == "python":
            return repr(body)
        return json.dumps(body) if self.service.settings.history_body == "json" else body

    def _generations(self, request: RecordedRequest) -> Reply:
        query = request.query
        first, last = query.get("start_date", "0001-01-01"), query.get("end_date", "9999-12-31")
        rows = [row for row in self._outputs(query) if first <= row["created_at"][:10] <= last]
        return json_reply(_page(rows, int(query.get("page", 1)), 20))

    def _recent(self, request: RecordedRequest) -> Reply:
        if not request.query.get("model_name"):
            return error_reply("model_name is required", 400)
        return json_reply({"data": self._outputs(request.query)[:20]})

    def _outputs(self, query: dict[str, str]) -> list[Row]:
        """Newest first, only requests that produced an output; inputs appear once the record has landed."""
        now = self.service.clock.now()
        jobs = [job for job in reversed(self.service.book.jobs()) if _matches(job, query)]
        return [row for job in jobs if job.state(now) == "COMPLETED" for row in self._output_rows(job, now)]

    def _output_rows(self, job: Job, now: float) -> list[Row]:
        charge = self.service.book.charge_of(job.request_id)
        landed = now >= job.created + self.service.settings.history_lag_seconds
        record = {
            "status": "COMPLETED",
            "credits_deduction": charge.amount if charge else None,
            "latency_ms": round((job.finished - job.created) * 1000),
            "prompt": job.body.get("prompt"),
            "parameters": dict(job.body),
        }
        head = {"request_id": job.request_id, "model_name": job.slug, **OWNER}
        stamps = {"created_at": _iso(job.created), "updated_at": _iso(job.finished)}
        shown = record if landed else dict.fromkeys(record)
        rest = {**head, **stamps, **shown}
        urls = enumerate(self.service.output_urls(job))
        return [{"id": f"{job.request_id}-{i}", "generation_url": url, **rest} for i, url in urls]


def _matches(job: Job, query: dict[str, str]) -> bool:
    """model_name filters by substring."""
    return query.get("model_name", "") in job.slug


def _paging(query: dict[str, str]) -> tuple[int, int]:
    page, per_page = int(query.get("page", 1)), int(query.get("per_page", 20))
    if page < 1 or not 1 <= per_page <= 100:
        raise ValueError("per_page must be between 1 and 100")
    return page, per_page


def _sorted(rows: list[Row], query: dict[str, str]) -> list[Row]:
    key = query.get("sort_by", "model_created")
    name = key if key in SORT_KEYS else "model_created"
    return sorted(rows, key=lambda row: row[name], reverse=query.get("sort_order", "desc") == "desc")


def _page(rows: list[Row], page: int, per_page: int) -> dict[str, Any]:
    start = (page - 1) * per_page
    total = {"total": len(rows), "total_pages": -(-len(rows) // per_page)}
    return {"data": rows[start : start + per_page], "page": page, "per_page": per_page, **total}


def _day(at: float) -> date:
    return datetime.fromtimestamp(at, timezone.utc).date()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
