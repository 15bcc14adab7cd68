"""Test-only routes on the api host, for driving a fake that lives in another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from .faults import Fault
from .jobs import Behaviour, Shape
from .plan import FaultPlan
from .recorded import RecordedRequest
from .service import Service
from .wire import Reply, error_reply, json_reply, parse_object

Answer = Callable[[RecordedRequest], Awaitable[Reply]]


class Control:
    """GET /__ledger; POST /__faults, /__behaviour, /__settings, /__clock. The rest goes on to the gateway."""

    def __init__(self, service: Service, plan: FaultPlan, requests: list[RecordedRequest], onward: Answer):
        self.service, self.plan, self.requests, self.onward = service, plan, requests, onward

    async def answer(self, request: RecordedRequest) -> Reply:
        if not request.path.startswith("/__"):
            return await self.onward(request)
        pages = {
            ("GET", "/__ledger"): lambda _: self.ledger(),
            ("POST", "/__faults"): self._script,
            ("POST", "/__behaviour"): self._behave,
            ("POST", "/__settings"): self._set,
            ("POST", "/__clock"): self._advance,
        }
        page = pages.get((request.method, request.path))
        if page is None:
            return error_reply("no such control route", 404)
        try:
            return json_reply(page(parse_object(request.body) or {}))
        except (KeyError, TypeError, ValueError) as error:
            return error_reply(f"{type(error).__name__}: {error}", 400)

    def ledger(self) -> dict[str, Any]:
        """Everything another process may want to assert on, as JSON."""
        book, now = self.service.book, self.service.clock.now()
        jobs = [
            {"request_id": job.request_id, "slug": job.slug, "state": job.state(now), "body": dict(job.body)}
            for job in book.jobs()
        ]
        return {
            "now": now,
            "balance": book.balance(),
            "submits": sum(request.route == "submit" for request in self.requests),
            "jobs": jobs,
            "charges": [{**asdict(charge), "body": dict(charge.body)} for charge in book.charges()],
            "charges_by_body": dict(book.charges_by_body()),
            "requests": [self._summary(request) for request in tuple(self.requests)],
        }

    def _summary(self, request: RecordedRequest) -> dict[str, Any]:
        names = ("role", "route", "method", "target", "at", "fault", "body_length")
        head = {name: getattr(request, name) for name in names}
        return {**head, "has_key": request.carries(self.service.key)}

    def _script(self, spec: dict[str, Any]) -> dict[str, Any]:
        faults = [Fault.from_json(item) for item in spec["faults"]]
        self.plan.add(spec["route"], faults, int(spec.get("nth", 1)), bool(spec.get("forever", False)))
        return {"scripted": len(faults)}

    def _behave(self, spec: dict[str, Any]) -> dict[str, Any]:
        """``{"next": [...]}`` for coming jobs, ``{"default": {...}}`` for the rest."""
        if "default" in spec:
            self.service.behaviour = _behaviour(spec["default"])
        self.service.coming.extend(_behaviour(item) for item in spec.get("next", []))
        return {"coming": len(self.service.coming)}

    def _set(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Any of the Settings by name."""
        unknown = spec.keys() - asdict(self.service.settings).keys()
        if unknown:
            raise ValueError(f"no setting is called {sorted(unknown)}")
        for name, value in spec.items():
            setattr(self.service.settings, name, value)
        return dict(spec)

    def _advance(self, spec: dict[str, Any]) -> dict[str, Any]:
        self.service.clock.advance(float(spec["advance"]))
        return {"now": self.service.clock.now()}


def _behaviour(spec: dict[str, Any]) -> Behaviour:
    named = {**spec, "shape": Shape(spec["shape"])} if "shape" in spec else spec
    return Behaviour(**named)
