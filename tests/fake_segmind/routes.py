"""The gateway: submit, status, result, the blocking v1 call and the balance."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from .faults import rate_limit_reply
from .jobs import Charge, Job, Shape
from .recorded import RecordedRequest
from .service import Service, bad_enum, bad_value
from .wire import Reply, error_reply, html_reply, json_reply, parse_object

WINDOW_SECONDS = 60
MISSING_KEY = "Missing Authorization or x-api-key in header"
INVALID_KEY = "Unauthorized. API key is invalid or may have expired. See cloud.segmind.com/console/api-keys"
MIME = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
JSON_TYPES = ("application/json", "multipart/form-data")


class Gateway:
    """Answers for the api host."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._window = 0
        self._used = 0

    async def answer(self, request: RecordedRequest) -> Reply:
        refused = self._unauthorised(request) or self._limited(request)
        if refused:
            return refused
        if request.route in ("submit", "v1"):
            return await self._post(request)
        if request.method != "GET":
            return html_reply(405)
        return await self._get(request)

    async def _get(self, request: RecordedRequest) -> Reply:
        if request.route == "credits":
            return json_reply({"credits": self.service.book.balance(), "free-credits": 0.0184921035})
        if request.route == "status":
            return self._status(request.path.split("/")[3])
        if request.route == "result":
            return await self._result(request.path.split("/")[3])
        return html_reply(405 if request.path.count("/") == 2 else 404)

    def _unauthorised(self, request: RecordedRequest) -> Reply | None:
        key = request.header("x-api-key")
        if key == self.service.key:
            return None
        sent = key or request.header("authorization")
        return error_reply(INVALID_KEY if sent else MISSING_KEY, 401)

    def _limited(self, request: RecordedRequest) -> Reply | None:
        """A fixed window of one minute, as the reset header implies."""
        settings = self.service.settings
        if settings.rpm is None or (request.method == "GET" and not settings.limit_gets):
            return None
        window = int(self.service.clock.now() // WINDOW_SECONDS)
        if window != self._window:
            self._window, self._used = window, 0
        self._used += 1
        return self._too_many(window) if self._used > settings.rpm else None

    def _too_many(self, window: int) -> Reply:
        return rate_limit_reply((window + 1) * WINDOW_SECONDS, self.service.settings.reset_format)

    async def _post(self, request: RecordedRequest) -> Reply:
        slug = request.path.split("/")[2]
        body = parse_object(request.body)
        refused = self._model_refusal(slug) or self._body_refusal(request, body) or self._money_refusal()
        if refused or body is None:
            return refused or error_reply("Invalid JSON body", 400)
        if request.route == "v1":
            return await self._blocking(slug, body)
        return self._accepted(await asyncio.to_thread(self.service.accept, slug, body))

    def _model_refusal(self, slug: str) -> Reply | None:
        settings = self.service.settings
        if slug in settings.retired:
            return error_reply(f"Model {slug} has been retired", 410)
        if slug in settings.forbidden:
            return error_reply(f"Your team is not permitted to call {slug}", 403)
        return None if slug in settings.slugs else error_reply(f"Model {slug} not found", 404)

    def _body_refusal(self, request: RecordedRequest, body: Mapping[str, Any] | None) -> Reply | None:
        kind = (request.header("content-type") or "").split(";")[0].strip().lower()
        if kind not in JSON_TYPES:
            return Reply(406, b"Invalid content type", "text/plain; charset=utf-8")
        if body is None:
            return error_reply("Invalid JSON body", 400)
        return self._parameter_refusal(body)

    def _parameter_refusal(self, body: Mapping[str, Any]) -> Reply | None:
        mode = self.service.settings.validation
        if mode == "declared" and (message := bad_enum(body)):
            return error_reply(message, 406)
        if mode == "strict" and (message := self._strict_error(body)):
            detail = [{"loc": ["body"], "msg": message, "type": "value_error"}]
            return json_reply({"detail": detail}, 422)
        return None

    def _strict_error(self, body: Mapping[str, Any]) -> str | None:
        return "prompt: field required" if "prompt" not in body else bad_value(body)

    def _money_refusal(self) -> Reply | None:
        settings, balance = self.service.settings, self.service.book.balance()
        needed = self.service.next_behaviour().price
        if balance < needed:
            message = f"Insufficient credits. Balance is ${balance:.4f}, the request needs ${needed:.4f}"
            return error_reply(message, 406)
        spent = settings.credits - balance
        if settings.spend_cap is not None and spent + needed > settings.spend_cap:
            return error_reply(f"Team spend limit reached: monthly limit of ${settings.spend_cap:.2f}", 406)
        return None

    def _accepted(self, job: Job) -> Reply:
        head = {"request_id": job.request_id, "status": "QUEUED"}
        return json_reply({**head, **self._job_urls(job, poll=True)})

    def _job_urls(self, job: Job, poll: bool = False) -> dict[str, str]:
        api, request_id = self.service.urls["api"], job.request_id
        urls = {"poll_url": f"{api}/v1/requests/{request_id}"} if poll else {}
        return {
            **urls,
            "status_url": f"{api}/v2/requests/{request_id}/status",
            "response_url": f"{api}/v2/requests/{request_id}",
        }

    def _status(self, request_id: str) -> Reply:
        job = self.service.book.record(request_id)
        if job is None:
            return error_reply(f"Request {request_id} not found", 404)
        state = job.state(self.service.clock.now())
        if state == "FAILED":
            return self._failed(job)
        if state == "COMPLETED":
            metrics = {"inference_time": job.behaviour.run_seconds}
            return json_reply({"status": state, "request_id": request_id, "metrics": metrics})
        return self._pending(job, state)

    def _pending(self, job: Job, state: str) -> Reply:
        head = {"status": state, "request_id": job.request_id}
        return json_reply({**head, **self._job_urls(job), "metrics": {}})

    def _failed(self, job: Job) -> Reply:
        body = {"status": "FAILED", "error": job.behaviour.error, "metrics": _times(job)}
        return json_reply(body, 422)

    async def _result(self, request_id: str) -> Reply:
        job = self.service.book.record(request_id)
        if job is None:
            return error_reply(f"Request {request_id} not found", 404)
        state = job.state(self.service.clock.now())
        if state == "FAILED":
            return self._failed(job)
        return await self._completed(job) if state == "COMPLETED" else self._pending(job, state)

    async def _completed(self, job: Job) -> Reply:
        charge = self.service.book.charge_of(job.request_id)
        if job.behaviour.shape is Shape.BYTES:
            return await self._bytes(job)
        metrics = {**_times(job), "retry_count": 0, **_money(charge)}
        head = {"status": "COMPLETED", "error": None, "metrics": metrics}
        return json_reply({**head, **await self._output(job), "timings": None})

    async def _output(self, job: Job) -> dict[str, Any]:
        shape, urls = job.behaviour.shape, self.service.output_urls(job)
        if shape in (Shape.BASE64, Shape.DATA_URI):
            return {"output": await self._inline(job, shape)}
        shapes: dict[Shape, dict[str, Any]] = {
            Shape.IMAGES: {"output": urls[0], "images": [{"url": url} for url in urls]},
            Shape.IMAGE_STRINGS: {"output": urls[0], "images": urls},
            Shape.LIST: {"output": urls},
            Shape.NESTED: {"output": {"image_url": urls[0]}},
            Shape.NESTED_URL: {"output": {"url": urls[0]}},
            Shape.TOP_IMAGE: {"output": None, "image": urls[0]},
        }
        return shapes.get(shape, {"output": urls[0]})

    async def _inline(self, job: Job, shape: Shape) -> str | list[str]:
        prefix = f"data:{MIME[job.image_format]};base64," if shape is Shape.DATA_URI else ""
        count = range(job.behaviour.outputs)
        files = [await asyncio.to_thread(self.service.render, job, i) for i in count]
        texts = [prefix + base64.b64encode(data).decode() for data in files]
        return texts[0] if len(texts) == 1 else texts

    async def _blocking(self, slug: str, body: Mapping[str, Any]) -> Reply:
        job = await asyncio.to_thread(self.service.accept, slug, body, "v1")
        while self.service.clock.now() < job.finished:
            await asyncio.sleep(0.02)
        if job.failed:
            return error_reply(str(job.behaviour.error), 500)
        return await self._bytes(job)

    async def _bytes(self, job: Job) -> Reply:
        data = await asyncio.to_thread(self.service.render, job)
        charge = self.service.book.charge_of(job.request_id)
        money = _money(charge)
        headers = {
            "x-cost": str(money["cost"]),
            "x-remaining-credits": str(money["remaining_credits"]),
            "x-request-id": job.request_id,
            "x-generation-time": str(job.behaviour.run_seconds),
            "x-seed-value": str(job.seed),
        }
        return Reply(200, data, MIME[job.image_format], tuple(headers.items()))


def _times(job: Job) -> dict[str, float]:
    run, queue = job.behaviour.run_seconds, job.behaviour.queue_seconds
    return {"inference_time": run, "queue_time": queue, "total_time": run + queue}


def _money(charge: Charge | None) -> dict[str, float | None]:
    if charge is None:
        return {"cost": None, "remaining_credits": None}
    return {"cost": charge.amount, "remaining_credits": charge.balance}
