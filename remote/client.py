"""One HTTP call each, classified: what a reply means is `protocol`'s, what to do about it is `jobs`'.

The key is a header of the single request, put there by `Key.header_for`, which knows the only three hosts it
may go to. Redirects are never followed. Pictures are fetched by a second client that has no key.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx

from . import explain, protocol
from .addresses import is_loopback
from .dates import moment
from .httpx_log import quietly
from .keys import Hosts, Key
from .network import NotPublic, Proxied, PublicOnly
from .protocol import (
    Accepted,
    Credits,
    NotSent,
    Record,
    Rejection,
    Reply,
    Result,
    Retry,
    Status,
    Unknown,
)
from .redaction import redact
from .request import SLUG, encode_body
from .retry import retry_hint

VERSION = "0.1.0"
STATUS_BYTES = 256 << 10
JSON_BYTES = 4 << 20
PICTURE_BYTES = 64 << 20
DOWNLOAD_HOSTS = ("segmind-resources.s3.amazonaws.com",)
DOWNLOAD_DOMAIN = ".segmind.com"

T = TypeVar("T")


@dataclass(frozen=True)
class Timeouts:
    """Seconds a whole call may take.

    Attributes:
        connect_s: the part of any of them for reaching the host.
    """

    connect_s: float = 10.0
    submit_s: float = 60.0
    get_s: float = 20.0
    upload_s: float = 120.0
    download_s: float = 180.0


class TooLargeError(Exception):
    """A reply passed its limit; the rest was not read."""


class Oversize(Retry):
    """Asked for again it may be smaller; a picture will not."""


class Client:
    """Segmind's v2 API for one account. Belongs to one event loop.

    Args:
        transport: replaces the network, for tests.
        wall: Unix seconds, with which the server's dates are compared.
    """

    def __init__(
        self,
        hosts: Hosts,
        key: Key,
        *,
        timeouts: Timeouts | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.hosts, self._key, self._timeouts = hosts, key, timeouts or Timeouts()
        self._wall = wall
        self._loopback = is_loopback(httpx.URL(hosts.api).host)
        tls = httpx.create_ssl_context()
        # A submit has a connection of its own: an idle one that dies as we write looks like a lost submit.
        self._posts = self._http(transport or Proxied(tls, keepalive=0))
        self._gets = self._http(transport or Proxied(tls))
        self._pictures = self._http(transport or PublicOnly(Proxied(tls), allow_loopback=self._loopback))

    async def aclose(self) -> None:
        for http in (self._posts, self._gets, self._pictures):
            await http.aclose()

    async def submit(self, body: bytes) -> Accepted | Rejection | NotSent | Unknown:
        """Sends a paid request exactly once."""
        url, timeout = self.hosts.api + protocol.SUBMIT_PATH, self._timeouts.submit_s
        headers = {"content-type": "application/json"}
        request = self._keyed(self._posts, "POST", url, headers=headers, content=body)
        try:
            return protocol.read_submit(await self._read(self._posts, request, timeout, JSON_BYTES))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return NotSent(_why(error))
        except Exception as error:  # whatever it was, the server may have the request
            return Unknown(_why(error))

    async def status(self, request_id: str) -> Status | Retry | Rejection:
        url = self.hosts.api + protocol.status_path(request_id)
        reply = await self._get(url, limit=STATUS_BYTES)
        return self._about(request_id, reply, protocol.read_status)

    async def result(self, request_id: str) -> Result | Status | Retry | Rejection:
        reply = await self._get(self.hosts.api + protocol.result_path(request_id))
        return self._about(request_id, reply, protocol.read_result)

    async def credits(self) -> Credits | Retry | Rejection:
        reply = await self._get(self.hosts.api + protocol.CREDITS_PATH)
        return reply if isinstance(reply, Retry) else protocol.read_credits(reply)

    async def record(self, request_id: str) -> Record | Retry | Rejection:
        reply = await self._get(self.hosts.account + protocol.record_path(request_id))
        return self._about(request_id, reply, protocol.read_record)

    async def history(
        self, from_date: str, to_date: str, page: int = 1
    ) -> tuple[tuple[Record, ...], float] | Retry | Rejection:
        """A page of the account's requests, newest first, and how many seconds the server's clock is ahead.

        Args:
            from_date, to_date: YYYY-MM-DD in UTC, both included, 31 days apart at most.
        """
        query = {
            "page": page,
            "per_page": protocol.HISTORY_PAGE,
            "from_date": from_date,
            "to_date": to_date,
            "model_name": SLUG,
        }
        reply = await self._get(str(httpx.URL(self.hosts.account + protocol.HISTORY_PATH, params=query)))
        if isinstance(reply, Retry):
            return reply
        records = protocol.read_history(reply)
        return (records, reply.skew_s) if isinstance(records, tuple) else records

    async def upload(self, data_urls: Sequence[str]) -> tuple[str, ...] | Retry | Rejection:
        """Puts images online, in order; free, so it may be repeated."""
        url, body = self.hosts.storage + protocol.UPLOAD_PATH, encode_body({"data_urls": list(data_urls)})
        headers = {"content-type": "application/json", "accept": "application/json, text/plain, */*"}
        request = self._keyed(self._gets, "POST", url, headers=headers, content=body)
        reply = await self._try(self._gets, request, self._timeouts.upload_s, JSON_BYTES)
        if isinstance(reply, Retry):
            return reply
        return protocol.read_upload(reply, len(data_urls))

    async def download(self, url: str) -> bytes | Retry | Rejection:
        """The bytes of a finished picture, fetched without the key.

        Raises:
            DownloadRefused: the address is not one that results come from, or more than 64 MiB lie there.
        """
        target = self._download_target(url)
        request = self._pictures.build_request("GET", target)
        try:
            reply = await self._try(self._pictures, request, self._timeouts.download_s, PICTURE_BYTES)
        except NotPublic as error:
            raise explain.private_address(_why(error)) from None
        if isinstance(reply, Oversize):
            raise explain.too_large(reply.why)
        return reply if isinstance(reply, Retry) else protocol.read_download(reply)

    def _about(
        self, request_id: str, reply: Reply | Retry, read: Callable[[Reply], T | Retry | Rejection]
    ) -> T | Retry | Rejection:
        """What the reply says, unless it names another request: a cache on the way may mix them up."""
        answer = reply if isinstance(reply, Retry) else read(reply)
        if isinstance(reply, Retry) or isinstance(answer, (Retry, Rejection)):
            return answer
        mixed_up = protocol.request_named(reply) not in (None, request_id)
        return Retry("the answer is about another request") if mixed_up else answer

    async def _get(self, url: str, limit: int = JSON_BYTES) -> Reply | Retry:
        return await self._try(self._gets, self._keyed(self._gets, "GET", url), self._timeouts.get_s, limit)

    async def _try(
        self, http: httpx.AsyncClient, request: httpx.Request, timeout_s: float, limit: int
    ) -> Reply | Retry:
        """For calls that cost nothing to repeat."""
        try:
            return await self._read(http, request, timeout_s, limit)
        except NotPublic:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            return Retry(_why(error), connected=False)
        except TooLargeError as error:
            return Oversize(_why(error))
        except (httpx.HTTPError, asyncio.TimeoutError) as error:
            return Retry(_why(error))

    async def _read(self, http: httpx.AsyncClient, request: httpx.Request, timeout_s: float, limit: int) -> Reply:
        """The whole reply, with `limit` on its size after decompression and `timeout_s` on all of it."""
        return await asyncio.wait_for(self._stream(http, request, limit), timeout_s)

    async def _stream(self, http: httpx.AsyncClient, request: httpx.Request, limit: int) -> Reply:
        with quietly():
            response = await http.send(request, stream=True)
        try:
            body = b"" if response.status_code < 200 else await _bounded(response, limit)
        finally:
            await response.aclose()
        wall = self._wall()
        return Reply(
            status=response.status_code,
            body=body,
            hint_s=retry_hint(response.headers, wall),
            skew_s=(moment(response.headers.get("date", "")) or wall) - wall,
        )

    def _keyed(
        self, http: httpx.AsyncClient, method: str, url: str, *, headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Request:  # fmt: skip
        """A request with the key, to one of Segmind's hosts: `header_for` refuses every other."""
        signed = {**(headers or {}), **self._key.header_for(url, self.hosts)}
        return http.build_request(method, url, headers=signed, content=content)

    def _download_target(self, url: str) -> httpx.URL:
        try:
            target = httpx.URL(url)
            target.host.encode("idna")  # as the resolver does, which raises for empty and overlong labels
        except (httpx.InvalidURL, UnicodeError):
            target = httpx.URL()
        ours = self._loopback and is_loopback(target.host) and target.scheme in ("http", "https")
        known = target.host in DOWNLOAD_HOSTS or target.host.endswith(DOWNLOAD_DOMAIN)
        secure = target.scheme == "https" and target.port in (None, 443)
        if target.userinfo or not (ours or (known and secure)):
            raise explain.foreign_address(url)
        return target

    def _http(self, transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
        timeouts = self._timeouts
        return httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            headers={"user-agent": f"comfyui-klein9b/{VERSION}", "accept-encoding": "identity"},
            timeout=httpx.Timeout(timeouts.submit_s, connect=timeouts.connect_s, pool=None),
        )


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    """The body, given up as soon as it says or proves that it is too large; never inflated past `limit`."""
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the reply has {declared} bytes, more than the {limit} allowed")
    packed = response.headers.get("content-encoding", "identity").lower()
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32) if packed in ("gzip", "x-gzip", "deflate") else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += _inflated(inflater, chunk, limit + 1 - len(body)) if inflater else chunk
        if len(body) > limit:
            raise TooLargeError(f"the reply has more than the {limit} bytes allowed")
    if inflater and not inflater.eof and body:
        raise httpx.DecodingError("the compressed reply ends too early")
    return bytes(body)


def _inflated(inflater: zlib._Decompress, chunk: bytes, room: int) -> bytes:
    try:
        return inflater.decompress(chunk, room)
    except zlib.error:
        raise httpx.DecodingError("the compressed reply is damaged") from None


def _why(error: Exception) -> str:
    """A transport error in words, without the request (and so the key) that httpx hangs on it."""
    name = "" if isinstance(error, (TooLargeError, NotPublic)) else f"{type(error).__name__}: "
    return redact(f"{name}{error}".rstrip(": "))[:300]
