"""Which fault meets which request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from .faults import Fault

ROLES = ("api", "storage", "account", "image", "evil")

_FIXED_ROUTES = {
    ("storage", "/upload-asset"): "upload",
    ("account", "/inference-request/request-history"): "history",
    ("account", "/inference-request/generations"): "generations",
    ("account", "/inference-request/recent-generations"): "recent",
    ("account", "/inference-model-information/list"): "models",
    ("api", "/v1/get-user-credits"): "credits",
}
ROUTES = frozenset(
    {*_FIXED_ROUTES.values(), "submit", "status", "result", "v1", "history_item", "output", "asset", "evil", "unknown"}
)


def route_of(role: str, method: str, path: str) -> str:
    """The name a script uses for a request: one of ROUTES."""
    fixed = _FIXED_ROUTES.get((role, path))
    if fixed:
        return fixed
    if role == "evil":
        return "evil"
    if role == "account" and path.startswith("/inference-request/request-history/"):
        return "history_item"
    if role == "image":
        return {"generations": "output", "assets": "asset"}.get(path.split("/")[1], "unknown")
    return _gateway_route(method, path) if role == "api" else "unknown"


def _gateway_route(method: str, path: str) -> str:
    parts = path.strip("/").split("/")
    if len(parts) >= 3 and parts[0] in ("v1", "v2") and parts[1] == "requests":
        return "status" if parts[3:] == ["status"] else "result"
    if len(parts) == 2 and method == "POST":
        return {"v1": "v1", "v2": "submit"}.get(parts[0], "unknown")
    return "unknown"


@dataclass
class Script:
    """Faults for the ``nth`` request of a route and those after it; ``seen`` counts the route's requests."""

    route: str
    faults: tuple[Fault, ...]
    nth: int
    forever: bool
    seen: int = 0

    def meet(self) -> Fault | None:
        self.seen += 1
        index = self.seen - self.nth
        if self.forever and index >= len(self.faults):
            return self.faults[-1]
        return self.faults[index] if 0 <= index < len(self.faults) else None


@dataclass
class FaultPlan:
    """All scripts in the order they were given; the first that has a fault for a request wins."""

    scripts: list[Script] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, route: str, faults: Sequence[Fault], nth: int, forever: bool) -> None:
        if route not in ROUTES | {"*", *ROLES}:
            raise ValueError(f"no route or role is called {route!r}; there are {sorted(ROUTES)} and {ROLES}")
        if not faults or nth < 1:
            raise ValueError("a script needs a fault, and counts requests from 1")
        with self.lock:
            self.scripts.append(Script(route, tuple(faults), nth, forever))

    def meet(self, role: str, route: str) -> Fault | None:
        """Count a request in every script that watches its route, its role or everything."""
        with self.lock:
            met = [script.meet() for script in self.scripts if script.route in ("*", role, route)]
        return next((fault for fault in met if fault is not None), None)

    def clear(self) -> None:
        with self.lock:
            self.scripts.clear()
