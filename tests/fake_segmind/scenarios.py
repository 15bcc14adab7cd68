"""What can go wrong with one job, as values that the official client and ours are both driven by.

Each scenario says what the official client 1.3.0 was seen to do and what ours must do instead. The invariant
for ours, in every scenario: at most one charge, at most ``max_submits`` POSTs, no key on a foreign host, and
an end before the deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from .faults import Fault, flapping
from .jobs import Behaviour, Shape
from .routes import INVALID_KEY, MISSING_KEY
from .server import FakeSegmind
from .settings import SLUG

BODY: Mapping[str, Any] = {"prompt": "a red cup on a wooden table", "seed": 7, "steps": 4}


PROMPT = Behaviour()
SLOW = Behaviour(queue_seconds=0.05, run_seconds=0.05)
ENDLESS = Behaviour(run_seconds=1e6)
BROKEN = Behaviour(error="CUDA out of memory on worker")


class Sdk(str, Enum):
    """How one ``submit_async(...).wait(...)`` of the official client ends."""

    RESULT = "a result body with status COMPLETED"
    EMPTY = "an empty dict, returned as success"
    FAILED = "InferenceFailed"
    TIMEOUT = "InferenceTimeout"
    ERROR = "SegmindError"
    TRANSPORT = "httpx.TransportError"
    DECODE = "JSONDecodeError"
    ATTRIBUTE = "AttributeError"


class Ours(str, Enum):
    """How one job of our client must end."""

    PICTURE = "the picture, charged once, with its real cost"
    FAILED = "failed on the server: nothing charged, the server's words shown"
    REJECTED = "not accepted: nothing charged, fatal, with what to do about it"
    UNKNOWN = "nobody can tell whether it was accepted: stop, keep the record, never resend"
    STILL_RUNNING = "stopped waiting: the record is kept and the next run re-attaches"
    KEPT = "paid, but the bytes are out of reach: the record is kept with the reason"


@dataclass(frozen=True)
class Scripted:
    """Arguments of FakeSegmind.script."""

    route: str
    faults: tuple[Fault, ...]
    forever: bool = False


@dataclass(frozen=True)
class Scenario:
    """One job's misfortune.

    ``charges`` counts what the service takes for one POST. ``max_submits`` is above 1 only
    where the earlier POSTs provably did nothing. ``sdk_leaks`` marks where the official client sends its key
    to a foreign host, ``diverges`` where it differs from what is wanted. ``stalls``: a read timeout ends it.
    """

    name: str
    sdk: Sdk
    ours: Ours
    scripts: tuple[Scripted, ...] = ()
    behaviour: Behaviour = PROMPT
    settings: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=lambda: BODY)
    charges: int = 1
    max_submits: int = 1
    sdk_leaks: bool = False
    diverges: bool = False
    stalls: bool = False

    @property
    def our_charges(self) -> int:
        """Charges after our client is done: exactly this many, never more than one."""
        return {Ours.PICTURE: 1, Ours.KEPT: 1, Ours.FAILED: 0, Ours.REJECTED: 0}.get(self.ours, self.charges)

    def apply(self, fake: FakeSegmind) -> None:
        """Set a running fake up for this scenario."""
        for name, value in self.settings.items():
            setattr(fake.settings, name, value)
        fake.behaviour = self.behaviour
        for script in self.scripts:
            fake.script(script.route, *script.faults, forever=script.forever)


def on(route: str, *faults: Fault) -> tuple[Scripted, ...]:
    """Faults for the first requests of a route."""
    return (Scripted(route, faults),)


def always(route: str, fault: Fault) -> tuple[Scripted, ...]:
    """The same fault for every request of a route."""
    return (Scripted(route, (fault,), forever=True),)


def _submit(name: str, sdk: Sdk, ours: Ours, *faults: Fault, **rest: Any) -> Scenario:
    return Scenario(f"submit_{name}", sdk, ours, on("submit", *faults), diverges=True, **rest)


def _status(name: str, sdk: Sdk, *faults: Fault, **rest: Any) -> Scenario:
    """A passing disturbance of polling, which must cost nothing but time."""
    return Scenario(f"status_{name}", sdk, Ours.PICTURE, on("status", *faults), **rest)


def _result(name: str, sdk: Sdk, *faults: Fault, **rest: Any) -> Scenario:
    return Scenario(f"result_{name}", sdk, Ours.PICTURE, on("result", *faults), **rest)


def _output(name: str, ours: Ours, scripts: tuple[Scripted, ...], **rest: Any) -> Scenario:
    """The official client does not download, so it sees nothing wrong."""
    return Scenario(f"output_{name}", Sdk.RESULT, ours, scripts, **rest)


def _output_at(url: str) -> tuple[Scripted, ...]:
    """A result that names the picture somewhere it must not be fetched from."""
    return always("result", Fault.patch({"output": url, "images": []}))


def _shaped(shape: Shape, sdk: Sdk) -> Scenario:
    return Scenario(f"shape_{shape.value}", sdk, Ours.PICTURE, behaviour=Behaviour(shape=shape))


def _endless(name: str, fault: Fault) -> Scenario:
    """Every poll is answered wrongly; the official client spins until its deadline."""
    scripts = always("status", fault)
    return Scenario(f"status_{name}", Sdk.TIMEOUT, Ours.STILL_RUNNING, scripts, diverges=True)


def _refused(name: str, fault: Fault | None = None, **rest: Any) -> Scenario:
    scripts = always("submit", fault) if fault else ()
    return Scenario(f"refused_{name}", Sdk.ERROR, Ours.REJECTED, scripts, charges=0, **rest)


ORDINARY = (
    Scenario("queued_then_done", Sdk.RESULT, Ours.PICTURE, behaviour=SLOW),
    Scenario("two_outputs", Sdk.RESULT, Ours.PICTURE, behaviour=Behaviour(outputs=2)),
    Scenario("failed", Sdk.FAILED, Ours.FAILED, behaviour=BROKEN, charges=0),
    Scenario("moderated", Sdk.FAILED, Ours.FAILED, behaviour=Behaviour.moderated(), charges=0),
    *(_shaped(shape, Sdk.RESULT) for shape in Shape if shape is not Shape.BYTES),
    replace(_shaped(Shape.BYTES, Sdk.EMPTY), diverges=True),
)

REFUSED = (
    _refused("key_missing", Fault.error(MISSING_KEY, 401)),
    _refused("key_invalid", Fault.error(INVALID_KEY, 401)),
    _refused("not_permitted", settings={"forbidden": (SLUG,)}),
    _refused("no_such_model", settings={"slugs": ()}),
    _refused("method", Fault.html(405)),
    _refused("credits", settings={"credits": 0.01}),
    _refused("spend_cap", settings={"spend_cap": 0.01}),
    _refused("content_type", Fault.body("Invalid content type", "text/plain", 406)),
    _refused("parameter", Fault.error("Invalid value for parameter 'sampler'", 406)),
    _refused("bad_request", Fault.error("Malformed body", 400)),
    _refused("retired", settings={"retired": (SLUG,)}),
    _refused("too_large", Fault.html(413)),
    _refused("validation", Fault.respond(422, {"detail": [{"loc": ["body", "cfg"], "msg": "too big"}]})),
)

REJECTED_ONCE: Mapping[str, Any] = {"charges": 0, "max_submits": 2}
HISTORY_DOWN = always("history", Fault.html(503))
LOST = _submit("lost", Sdk.TRANSPORT, Ours.UNKNOWN, Fault.reset_after_request())

SUBMIT = (
    _submit("reset_after_request", Sdk.TRANSPORT, Ours.PICTURE, Fault.reset_after_request()),
    _submit("close_after_request", Sdk.TRANSPORT, Ours.PICTURE, Fault.close_after_request()),
    _submit("reset_before_body", Sdk.TRANSPORT, Ours.UNKNOWN, Fault.reset_before_body(), charges=0),
    _submit("reset_in_head", Sdk.TRANSPORT, Ours.PICTURE, Fault.reset_at(20)),
    _submit("reset_in_body", Sdk.TRANSPORT, Ours.PICTURE, Fault.reset_at(200)),
    _submit("short_body", Sdk.TRANSPORT, Ours.PICTURE, Fault.wrong_length(40)),
    _submit("chunked_garbage", Sdk.TRANSPORT, Ours.PICTURE, Fault.chunked_garbage()),
    _submit("not_http", Sdk.TRANSPORT, Ours.PICTURE, Fault.raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    _submit("stalled_head", Sdk.TRANSPORT, Ours.PICTURE, Fault.stall_headers(), stalls=True),
    _submit("stalled_body", Sdk.TRANSPORT, Ours.PICTURE, Fault.stall_body(), stalls=True),
    _submit("truncated_json", Sdk.DECODE, Ours.PICTURE, Fault.truncated_json()),
    _submit("empty_body", Sdk.DECODE, Ours.PICTURE, Fault.empty_body()),
    _submit("html_200", Sdk.DECODE, Ours.PICTURE, Fault.html(200, effect=True)),
    _submit("list_200", Sdk.ATTRIBUTE, Ours.PICTURE, Fault.respond(200, [], effect=True)),
    _submit("no_urls", Sdk.ERROR, Ours.PICTURE, Fault.patch({}, drop=("status_url", "response_url"))),
    _submit("no_request_id", Sdk.ERROR, Ours.PICTURE, Fault.patch({}, drop=("request_id",))),
    _submit("foreign_urls", Sdk.RESULT, Ours.PICTURE, Fault.foreign_urls(), sdk_leaks=True),
    _submit("gateway_504_but_accepted", Sdk.ERROR, Ours.PICTURE, Fault.html(504, effect=True)),
    _submit("gateway_502", Sdk.ERROR, Ours.UNKNOWN, Fault.html(502), charges=0),
    _submit("server_500_but_accepted", Sdk.ERROR, Ours.PICTURE, Fault.server_error(effect=True)),
    _submit("redirect_to_evil", Sdk.DECODE, Ours.UNKNOWN, Fault.redirect(), charges=0),
    _submit("redirect_307_to_evil", Sdk.DECODE, Ours.UNKNOWN, Fault.redirect(status=307), charges=0),
    _submit("429", Sdk.ERROR, Ours.PICTURE, Fault.rate_limited(1.0), **REJECTED_ONCE),
    _submit("429_bare", Sdk.ERROR, Ours.PICTURE, Fault.rate_limited(reset=None), **REJECTED_ONCE),
    replace(LOST, name="submit_lost_and_history_late", settings={"history_lag_seconds": 7200.0}),
    replace(LOST, name="submit_lost_and_history_down", scripts=LOST.scripts + HISTORY_DOWN),
)

EXPIRED = always("status", Fault.early_404()) + always("result", Fault.early_404())

STATUS = (
    _status("rate_limited", Sdk.ERROR, *[Fault.rate_limited(0.2)] * 2, diverges=True),
    _status("flapping", Sdk.ERROR, *flapping(3), diverges=True),
    _status("server_500", Sdk.ERROR, Fault.server_error(), diverges=True),
    _status("reset", Sdk.TRANSPORT, Fault.reset_after_request(), diverges=True),
    _status("closed", Sdk.TRANSPORT, Fault.close_after_request(), diverges=True),
    _status("short_body", Sdk.TRANSPORT, Fault.wrong_length(40), diverges=True),
    _status("chunked_garbage", Sdk.TRANSPORT, Fault.chunked_garbage(), diverges=True),
    _status("stalled", Sdk.TRANSPORT, Fault.stall_headers(), stalls=True, diverges=True),
    _status("replica_lag", Sdk.ERROR, *[Fault.early_404()] * 2, diverges=True),
    _status("unauthorised_once", Sdk.ERROR, Fault.error(INVALID_KEY, 401), diverges=True),
    _status("truncated_json", Sdk.RESULT, Fault.truncated_json()),
    _status("empty_body", Sdk.RESULT, Fault.empty_body()),
    _status("no_status_key", Sdk.RESULT, Fault.respond(200, {})),
    _status("unknown_state_once", Sdk.RESULT, Fault.patch({"status": "WARMING"})),
    replace(_endless("lower_case", Fault.patch({"status": "completed"})), ours=Ours.PICTURE),
    _endless("unknown_state", Fault.patch({"status": "CANCELED"})),
    _endless("redirect_to_evil", Fault.redirect()),
    _endless("redirect_to_loopback", Fault.redirect("{image}")),
    _endless("redirect_to_file", Fault.redirect_to_file()),
    Scenario("status_never_done", Sdk.TIMEOUT, Ours.STILL_RUNNING, behaviour=ENDLESS, charges=0),
    Scenario("record_expired", Sdk.ERROR, Ours.PICTURE, EXPIRED, diverges=True),
)

RESULT = (
    _result("not_there_yet", Sdk.ERROR, *[Fault.early_404()] * 2, diverges=True),
    _result("truncated_json", Sdk.EMPTY, Fault.truncated_json(), diverges=True),
    _result("empty_body", Sdk.EMPTY, Fault.empty_body(), diverges=True),
    _result("list_body", Sdk.EMPTY, Fault.respond(200, []), diverges=True),
    _result("flapping", Sdk.ERROR, *flapping(3), diverges=True),
    _result("rate_limited", Sdk.ERROR, Fault.rate_limited(0.2, "epoch"), diverges=True),
    _result("reset_mid_body", Sdk.TRANSPORT, Fault.reset_at(250), diverges=True),
    _result("stalled_body", Sdk.TRANSPORT, Fault.stall_body(), stalls=True, diverges=True),
    _result("gzip_bomb", Sdk.RESULT, Fault.gzip_bomb(64), diverges=True),
)

OUTPUT = (
    _output("flapping", Ours.PICTURE, on("output", *flapping(2))),
    _output("reset_mid_body", Ours.PICTURE, on("output", Fault.reset_at(2000))),
    _output("short_body", Ours.PICTURE, on("output", Fault.wrong_length(1000))),
    _output("truncated", Ours.PICTURE, on("output", Fault.truncated_json())),
    _output("stalled_body", Ours.PICTURE, on("output", Fault.stall_body(k=500)), stalls=True),
    _output("gone", Ours.KEPT, always("output", Fault.body("<Error/>", "application/xml", 404))),
    _output("not_a_picture", Ours.KEPT, always("output", Fault.html(200))),
    _output("pixel_bomb", Ours.KEPT, always("output", Fault.pixel_bomb())),
    _output("redirect_to_evil", Ours.KEPT, always("output", Fault.redirect())),
    _output("redirect_to_file", Ours.KEPT, always("output", Fault.redirect_to_file())),
    _output("on_evil_host", Ours.KEPT, _output_at("{evil}/x.png")),
    _output("is_a_file", Ours.KEPT, _output_at("file:///etc/hostname")),
)

SCENARIOS: tuple[Scenario, ...] = (*ORDINARY, *REFUSED, *SUBMIT, *STATUS, *RESULT, *OUTPUT)


def scenario(name: str) -> Scenario:
    """The scenario called ``name``."""
    return next(one for one in SCENARIOS if one.name == name)
