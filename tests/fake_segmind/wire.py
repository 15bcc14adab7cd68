"""HTTP/1.1 as values: what a client sent, what the server answers, and the bytes between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024

Headers = tuple[tuple[str, str], ...]


class BadRequestError(Exception):
    """The client's bytes are not an HTTP/1.1 request."""


def header(headers: Headers, name: str) -> str | None:
    """The first value of a header, by lower-case name."""
    return next((value for key, value in headers if key == name), None)


@dataclass(frozen=True)
class Head:
    """A request line and headers, names in lower case, before the body is read."""

    method: str
    target: str
    headers: Headers

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))


@dataclass(frozen=True)
class Reply:
    """A response before serialisation. Content-Length and Date are added on the way out."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Headers = ()

    def with_header(self, name: str, value: str) -> Reply:
        return replace(self, headers=(*self.headers, (name, value)))


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A compact JSON response, as the gateway writes it."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, body, headers=tuple((headers or {}).items()))


def error_reply(message: str, status: int, headers: Mapping[str, str] | None = None) -> Reply:
    """The gateway's error envelope."""
    return json_reply({"error": message}, status, headers)


def html_reply(status: int) -> Reply:
    """The error page a load balancer or the router answers with instead of JSON."""
    title = f"{status} {_reason(status)}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"
    return Reply(status, page.encode(), "text/html; charset=utf-8")


def parse_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, or None when it is anything else."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next request head on a connection, None when the client is done with it."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise BadRequestError("the request head stops early") from cut
        return None
    except asyncio.LimitOverrunError as huge:
        raise BadRequestError("the request head is too long") from huge
    return _parse_head(raw)


def _parse_head(raw: bytes) -> Head:
    first, *rest = raw.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError("the request line is not HTTP/1.1")
    pairs = [line.partition(":") for line in rest if line]
    return Head(words[0], words[1], tuple((name.strip().lower(), value.strip()) for name, _, value in pairs))


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """The request body, by Content-Length or chunked."""
    if header(head.headers, "transfer-encoding") == "chunked":
        return await _read_chunks(reader)
    length = int(header(head.headers, "content-length") or 0)
    if not 0 <= length <= MAX_BODY_BYTES:
        raise BadRequestError("the request body is too long")
    return await reader.readexactly(length)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
        if len(body) > MAX_BODY_BYTES:
            raise BadRequestError("the request body is too long")
    while (await reader.readline()).strip():
        pass
    return bytes(body)


def serialize(reply: Reply, now: float) -> bytes:
    """The response on the wire. A header the reply names itself wins over the one we would add."""
    named = {name.lower() for name, _ in reply.headers}
    ours = {
        "Date": formatdate(now, usegmt=True),
        "Content-Type": reply.content_type,
        "Content-Length": str(len(reply.body)),
    }
    if "transfer-encoding" in named:
        del ours["Content-Length"]
    lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}"]
    lines += [f"{name}: {value}" for name, value in ours.items() if name.lower() not in named]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + reply.body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
