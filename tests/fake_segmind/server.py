"""The fake as a whole: five origins on loopback, one thread, one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from types import TracebackType
from typing import Any

from .account import Account, Evil, Images, Storage
from .connection import Answer, Connection, Log
from .control import Control
from .faults import Fault
from .jobs import Behaviour, Charge, Clock, Job
from .plan import ROLES, FaultPlan
from .recorded import RecordedRequest
from .routes import Gateway
from .service import Service
from .settings import Settings
from .wire import MAX_HEAD_BYTES

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0


class FakeSegmind:
    """A Segmind on loopback. Use as a context manager; attributes may be read from any thread.

    ``behaviour`` is how jobs go unless ``behave`` says otherwise; ``settings`` holds what the real service
    leaves undocumented. Both may be changed while the fake runs.
    """

    def __init__(self, behaviour: Behaviour | None = None, settings: Settings | None = None) -> None:
        self.service = Service(settings or Settings(), behaviour or Behaviour())
        self.plan = FaultPlan()
        self._log = Log(self.service.folder)
        self._control = Control(self.service, self.plan, self._log.requests, Gateway(self.service).answer)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-segmind", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> FakeSegmind:
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise RuntimeError("the fake Segmind did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        self.service.close()

    @property
    def key(self) -> str:
        """The one key this fake accepts; new for every fake."""
        return self.service.key

    @property
    def clock(self) -> Clock:
        return self.service.clock

    @property
    def settings(self) -> Settings:
        return self.service.settings

    @property
    def urls(self) -> dict[str, str]:
        """Origin by role: api, storage, account, image, evil."""
        return dict(self.service.urls)

    @property
    def api_url(self) -> str:
        return self.service.urls["api"]

    @property
    def storage_url(self) -> str:
        return self.service.urls["storage"]

    @property
    def account_url(self) -> str:
        return self.service.urls["account"]

    @property
    def image_url(self) -> str:
        return self.service.urls["image"]

    @property
    def evil_url(self) -> str:
        return self.service.urls["evil"]

    @property
    def behaviour(self) -> Behaviour:
        """How jobs go when no ``behave`` is pending."""
        return self.service.behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self.service.behaviour = behaviour

    def behave(self, *behaviours: Behaviour) -> None:
        """How the next accepted jobs go, in order."""
        self.service.coming.extend(behaviours)

    def script(self, route: str, *faults: Fault, nth: int = 1, forever: bool = False) -> None:
        """Faults for the ``nth`` coming request of a route and those after it.

        ``route`` is one of plan.ROUTES, a role, or "*". With ``forever`` the last fault stays. Every script
        counts requests from the moment it is given, and the first one given wins.
        """
        self.plan.add(route, faults, nth, forever)

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """Everything received so far, on all hosts, oldest first."""
        return tuple(self._log.requests)

    def requests_to(self, route: str) -> tuple[RecordedRequest, ...]:
        """Requests of one route or one role."""
        return tuple(request for request in self.requests if route in (request.route, request.role))

    @property
    def submits(self) -> int:
        """How many POST /v2/{slug} arrived, accepted or not."""
        return len(self.requests_to("submit"))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Jobs that exist, however their submit was answered."""
        return self.service.book.jobs()

    @property
    def ledger(self) -> tuple[Charge, ...]:
        """Charges made, in the order the jobs completed."""
        return self.service.book.charges()

    @property
    def charges_by_body(self) -> Counter[str]:
        """Charges per canonical request body (see jobs.body_key); more than one is money lost."""
        return self.service.book.charges_by_body()

    @property
    def balance(self) -> float:
        return self.service.book.balance()

    @property
    def key_leaks(self) -> tuple[RecordedRequest, ...]:
        """Requests that carried the key to a host that has no business with it."""
        public = (request for request in self.requests if request.role in ("image", "evil"))
        return tuple(request for request in public if request.carries(self.key))

    def description(self) -> dict[str, Any]:
        """What another process needs to use this fake."""
        return {"key": self.key, **{f"{role}_url": url for role, url in self.urls.items()}}

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        servers = [await self._listen(role, answer) for role, answer in self._answers().items()]
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()

    def _answers(self) -> dict[str, Answer]:
        made: tuple[Answer, ...] = (
            self._control.answer,
            Storage(self.service).answer,
            Account(self.service).answer,
            Images(self.service).answer,
            Evil(self.service).answer,
        )
        return dict(zip(ROLES, made))

    async def _listen(self, role: str, answer: Answer) -> asyncio.Server:
        handler = Connection(role, answer, self.service, self.plan, self._log).serve
        server = await asyncio.start_server(handler, LOOPBACK, 0, limit=MAX_HEAD_BYTES, backlog=512)
        self.service.urls[role] = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        return server
