"""Scripted faults: what goes wrong, for which request, and how it looks on the wire.

A fault is up to three independent things: a different answer (``reply`` or ``edit``), whether the request
still takes effect (``effect``: a 504 whose job runs all the same), and how the bytes leave (``delivery``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from .picture import blank_png
from .wire import Reply, error_reply, html_reply, json_reply, parse_object

FOREVER = 10.0**9
GATEWAY_STATUSES = (502, 503, 504)


@dataclass(frozen=True)
class Scene:
    """What a fault may mention: the hosts by role, the request's path and the server's clock."""

    urls: Mapping[str, str]
    path: str
    now: float


@dataclass(frozen=True)
class Delivery:
    """How response bytes leave. ``cut`` counts bytes of the whole response, head included."""

    cut: int | None = None
    reset: bool = False
    stall_at: int = 0
    stall_seconds: float = 0.0
    bytes_per_second: float | None = None
    close: bool = False


Answer = Callable[[Scene], Reply]
Edit = Callable[[Reply, Scene], Reply]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one request. Build with the class methods."""

    name: str
    refuse: bool = False
    reply: Answer | None = None
    edit: Edit | None = None
    effect: bool = True
    delivery: Delivery = Delivery()

    @classmethod
    def none(cls) -> Fault:
        """Nothing goes wrong: holds a place in a script."""
        return cls("none")

    @classmethod
    def reset_before_body(cls) -> Fault:
        """RST once the head is in; the body is never read and nothing happens."""
        return cls("reset_before_body", refuse=True)

    @classmethod
    def reset_after_request(cls) -> Fault:
        """RST after the whole request was read and took effect, before any response byte."""
        return cls("reset_after_request", delivery=Delivery(cut=0, reset=True))

    @classmethod
    def close_after_request(cls) -> Fault:
        """EOF instead of RST: the request took effect, the answer is zero bytes."""
        return cls("close_after_request", delivery=Delivery(cut=0))

    @classmethod
    def reset_at(cls, k: int) -> Fault:
        """RST after byte ``k`` of the response."""
        return cls("reset_at", delivery=Delivery(cut=k, reset=True))

    @classmethod
    def close_at(cls, k: int) -> Fault:
        """EOF after byte ``k`` of the response."""
        return cls("close_at", delivery=Delivery(cut=k))

    @classmethod
    def close_after_reply(cls) -> Fault:
        """A whole keep-alive answer, then EOF: the pooled connection is stale for the next request."""
        return cls("close_after_reply", delivery=Delivery(close=True))

    @classmethod
    def stall_headers(cls, seconds: float = FOREVER) -> Fault:
        """The request took effect; the first response byte comes ``seconds`` later."""
        return cls("stall_headers", delivery=Delivery(stall_seconds=seconds))

    @classmethod
    def stall_body(cls, seconds: float = FOREVER, k: int = 1) -> Fault:
        """The head and ``k`` bytes of body, then silence for ``seconds``, then the rest."""
        return cls("stall_body", delivery=Delivery(stall_at=-k, stall_seconds=seconds))

    @classmethod
    def trickle(cls, bytes_per_second: float) -> Fault:
        """The whole answer, too slowly."""
        return cls("trickle", delivery=Delivery(bytes_per_second=bytes_per_second))

    @classmethod
    def truncated_json(cls, keep: int | None = None) -> Fault:
        """A well-framed answer whose JSON stops after ``keep`` bytes (half of it by default)."""
        return cls("truncated_json", edit=lambda reply, _: _truncate(reply, keep))

    @classmethod
    def empty_body(cls) -> Fault:
        """The right status and Content-Length: 0."""
        return cls("empty_body", edit=lambda reply, _: replace(reply, body=b""))

    @classmethod
    def wrong_length(cls, delta: int) -> Fault:
        """Content-Length off by ``delta``, then EOF."""
        return cls("wrong_length", edit=lambda reply, _: _lie(reply, delta), delivery=Delivery(close=True))

    @classmethod
    def chunked_garbage(cls) -> Fault:
        """Transfer-Encoding: chunked, and the second chunk size is not a number."""
        return cls("chunked_garbage", edit=lambda reply, _: _garble(reply), delivery=Delivery(close=True))

    @classmethod
    def gzip_bomb(cls, megabytes: int = 256) -> Fault:
        """The true JSON behind ``megabytes`` of white space, gzipped to about a thousandth."""
        return cls("gzip_bomb", edit=lambda reply, _: _bomb(reply, megabytes))

    @classmethod
    def redirect(cls, to: str = "{evil}", status: int = 302) -> Fault:
        """A redirect. ``to`` may name a role in braces ({evil}, {image}, {api}); the path is kept."""
        return cls("redirect", reply=lambda scene: _redirect(to, status, scene), effect=False)

    @classmethod
    def redirect_to_file(cls) -> Fault:
        """A redirect to the local file system."""
        return replace(cls.redirect("file:///etc/hostname"), name="redirect_to_file")

    @classmethod
    def foreign_urls(cls, role: str = "evil") -> Fault:
        """An accepted submit whose status_url, response_url and poll_url are on another host."""
        return cls("foreign_urls", edit=lambda reply, scene: _move_urls(reply, scene.urls[role]))

    @classmethod
    def patch(cls, fields: Mapping[str, Any], drop: Sequence[str] = ()) -> Fault:
        """The true JSON object with ``fields`` replaced and ``drop`` removed."""
        return cls("patch", edit=lambda reply, scene: _patch(reply, scene, fields, tuple(drop)))

    @classmethod
    def respond(
        cls, status: int, value: object, headers: Mapping[str, str] | None = None, effect: bool = False
    ) -> Fault:
        """A JSON answer instead of the true one. With ``effect`` the request is acted on all the same."""
        return cls("respond", reply=lambda _: json_reply(value, status, headers), effect=effect)

    @classmethod
    def body(cls, data: bytes | str, content_type: str = "image/png", status: int = 200) -> Fault:
        """Other bytes than the true ones: a picture that is not one, or one too many."""
        return cls("body", reply=lambda _: Reply(status, _as_bytes(data), content_type), effect=False)

    @classmethod
    def pixel_bomb(cls, side: int = 20000) -> Fault:
        """A valid PNG of a few dozen KB that decodes to ``side`` squared pixels."""
        return cls("pixel_bomb", reply=lambda _: Reply(200, blank_png(side), "image/png"), effect=False)

    @classmethod
    def html(cls, status: int, effect: bool = False) -> Fault:
        """A load balancer's HTML page. With ``effect`` the request got through behind it."""
        return cls("html", reply=lambda _: html_reply(status), effect=effect)

    @classmethod
    def error(cls, message: str, status: int, effect: bool = False) -> Fault:
        """The gateway's ``{"error": message}``."""
        return cls("error", reply=lambda _: error_reply(message, status), effect=effect)

    @classmethod
    def server_error(cls, effect: bool = False) -> Fault:
        """500 with the JSON envelope."""
        return replace(cls.error("Internal server error", 500, effect), name="server_error")

    @classmethod
    def early_404(cls) -> Fault:
        """A replica that has not heard of the request yet."""
        return cls("early_404", reply=lambda scene: _not_found(scene.path), effect=False)

    @classmethod
    def rate_limited(cls, seconds: float = 1.0, reset: str | None = "iso", retry_after: str | None = None) -> Fault:
        """429. ``reset`` is the header's format (iso, rfc1123, epoch, epoch_ms) or None for no header."""
        return cls(
            "rate_limited", effect=False, reply=lambda scene: rate_limit_reply(scene.now + seconds, reset, retry_after)
        )

    @classmethod
    def raw(cls, data: bytes | str, effect: bool = True) -> Fault:
        """Arbitrary bytes instead of an HTTP response, then EOF."""
        blob = Reply(0, _as_bytes(data))
        return cls("raw", reply=lambda _: blob, effect=effect, delivery=Delivery(close=True))

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Fault:
        """``{"fault": "reset_at", "args": {"k": 10}}`` as POST /__faults takes it."""
        name = str(spec["fault"])
        if name.startswith("_") or name == "from_json" or not hasattr(cls, name):
            raise ValueError(f"there is no fault called {name!r}")
        made = getattr(cls, name)(**spec.get("args", {}))
        if not isinstance(made, Fault):
            raise ValueError(f"{name!r} is not a fault")
        return made


def flapping(times: int) -> tuple[Fault, ...]:
    """502, 503, 504 HTML pages in turn."""
    return tuple(Fault.html(GATEWAY_STATUSES[i % len(GATEWAY_STATUSES)]) for i in range(times))


def reset_header(at: float, style: str) -> str:
    """x-rate-limit-reset-at-utc in one of the formats a client may meet; which is real is unpublished."""
    if style == "iso":
        return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if style == "rfc1123":
        return formatdate(at, usegmt=True)
    return str(int(at * 1000)) if style == "epoch_ms" else str(int(at))


def rate_limit_reply(at: float, reset: str | None, retry_after: str | None = None) -> Reply:
    """The gateway's 429."""
    headers = {} if reset is None else {"x-rate-limit-reset-at-utc": reset_header(at, reset)}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return error_reply("rate_limit_exceeded", 429, headers)


def _as_bytes(data: bytes | str) -> bytes:
    """Text stands for bytes one to one, so that JSON can carry them."""
    return data.encode("latin-1") if isinstance(data, str) else data


def _truncate(reply: Reply, keep: int | None) -> Reply:
    return replace(reply, body=reply.body[: len(reply.body) // 2 if keep is None else keep])


def _lie(reply: Reply, delta: int) -> Reply:
    return reply.with_header("Content-Length", str(len(reply.body) + delta))


def _garble(reply: Reply) -> Reply:
    half = reply.body[: len(reply.body) // 2]
    framed = f"{len(half):x}\r\n".encode() + half + b"\r\nnot-a-size\r\n" + reply.body
    return replace(reply, body=framed).with_header("Transfer-Encoding", "chunked")


def _bomb(reply: Reply, megabytes: int) -> Reply:
    packed, packer = _zipped_blanks(megabytes)
    tail = packer.copy()
    body = packed + tail.compress(reply.body) + tail.flush()
    return replace(reply, body=body).with_header("Content-Encoding", "gzip")


@lru_cache(maxsize=1)
def _zipped_blanks(megabytes: int) -> tuple[bytes, Any]:
    """An unfinished gzip stream of white space, which before JSON is still JSON."""
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(megabytes)), packer


def _redirect(to: str, status: int, scene: Scene) -> Reply:
    target = to.format(**scene.urls)
    location = target + scene.path if to.startswith("{") and to.endswith("}") else target
    return Reply(status, headers=(("Location", location),))


def _move_urls(reply: Reply, host: str) -> Reply:
    value = parse_object(reply.body) or {}
    moved = {key: _on_host(url, host) for key, url in value.items() if key.endswith("_url")}
    return json_reply({**value, **moved}, reply.status)


def _on_host(url: str, host: str) -> str:
    return host + "/" + url.split("/", 3)[-1]


def _patch(reply: Reply, scene: Scene, fields: Mapping[str, Any], drop: tuple[str, ...]) -> Reply:
    value = {**(parse_object(reply.body) or {}), **fields}
    kept = {key: _filled(item, scene) for key, item in value.items() if key not in drop}
    return replace(json_reply(kept, reply.status), headers=reply.headers)


def _filled(item: object, scene: Scene) -> object:
    """Names of roles in braces become their URLs, so that a script can be written before the ports exist."""
    if not isinstance(item, str):
        return item
    for role, url in scene.urls.items():
        item = item.replace("{" + role + "}", url)
    return item


def _not_found(path: str) -> Reply:
    request_id = path.removesuffix("/status").rsplit("/", 1)[-1]
    return error_reply(f"Request {request_id} not found", 404)
