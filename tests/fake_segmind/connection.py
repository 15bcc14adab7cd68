"""One client connection: read requests, meet the scripted fault, answer, deliver."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from .faults import Delivery, Fault, Scene
from .plan import FaultPlan, route_of
from .recorded import SPOOL_BYTES, RecordedRequest
from .service import Service
from .wire import BadRequestError, Head, Reply, header, html_reply, read_body, read_head, serialize

Answer = Callable[[RecordedRequest], Awaitable[Reply]]
LINGER_ZERO = struct.pack("ii", 1, 0)
SLICE_BYTES = 64 * 1024
STALL_CHECK_SECONDS = 0.1


class Log:
    """Every request received, oldest first; big bodies go to disk."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[RecordedRequest] = []
        self._folder = folder

    def keep(self, body: bytes) -> bytes | Path:
        """What to hold for a body: itself, or the file it was spooled to."""
        if len(body) <= SPOOL_BYTES:
            return body
        path = self._folder / f"body-{len(self.requests)}-{id(body)}"
        path.write_bytes(body)
        return path


class Connection:
    """Serves one socket of one role until either side is done with it."""

    def __init__(self, role: str, answer: Answer, service: Service, plan: FaultPlan, log: Log) -> None:
        self.role, self.answer = role, answer
        self.service, self.plan, self.log = service, plan, log

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except (BadRequestError, ValueError):
            writer.write(serialize(html_reply(400), self.service.clock.now()))
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await read_head(reader)
        if head is None:
            return False
        route = route_of(self.role, head.method, head.path)
        control = self.role == "api" and head.path.startswith("/__")
        fault = (None if control else self.plan.meet(self.role, route)) or Fault.none()
        if fault.refuse:
            self._record(head, route, fault, b"")
            _reset(writer)
            return False
        body = await self._body(reader, writer, head)
        request = self._record(head, route, fault, body, keep=not control)
        data = await self._response(request, fault)
        reusable = await _deliver(reader, writer, data, fault.delivery)
        return reusable and header(head.headers, "connection") != "close"

    async def _body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: Head) -> bytes:
        if header(head.headers, "expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await read_body(reader, head)

    def _record(self, head: Head, route: str, fault: Fault, body: bytes, keep: bool = True) -> RecordedRequest:
        name = None if fault.name == "none" else fault.name
        at, stored = self.service.clock.now(), self.log.keep(body)
        request = RecordedRequest(self.role, route, head.method, head.target, head.headers, at, name, len(body), stored)
        if keep:
            self.log.requests.append(request)
        return request

    async def _response(self, request: RecordedRequest, fault: Fault) -> bytes:
        """The bytes to send. A fault with its own answer may still let the request take effect."""
        scene = Scene(self.service.urls, request.path, self.service.clock.now())
        reply = await self.answer(request) if fault.effect else Reply()
        if fault.reply:
            reply = fault.reply(scene)
        if fault.edit:
            reply = fault.edit(reply, scene)
        return serialize(reply, self.service.clock.now()) if reply.status else reply.body


async def _deliver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, delivery: Delivery) -> bool:
    """Send a response as its delivery says. False when the connection is not to be used again."""
    stall_at = _stall_point(data, delivery)
    shown = data if delivery.cut is None else data[: delivery.cut]
    await _send(writer, shown[:stall_at], delivery.bytes_per_second)
    await _stall(reader, delivery.stall_seconds)
    await _send(writer, shown[stall_at:], delivery.bytes_per_second)
    if delivery.reset:
        _reset(writer)
    return delivery.cut is None and not delivery.close


async def _stall(reader: asyncio.StreamReader, seconds: float) -> None:
    """Silence, until the client gives up: a stalled socket must not outlive it."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not reader.at_eof():
        await asyncio.sleep(min(left, STALL_CHECK_SECONDS))


def _stall_point(data: bytes, delivery: Delivery) -> int:
    """A negative ``stall_at`` counts bytes of the body."""
    if delivery.stall_at >= 0:
        return delivery.stall_at
    return data.index(b"\r\n\r\n") + 4 - delivery.stall_at


async def _send(writer: asyncio.StreamWriter, data: bytes, rate: float | None) -> None:
    step = SLICE_BYTES if rate is None else max(1, int(rate / 20))
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
        await writer.drain()
        if rate is not None:
            await asyncio.sleep(step / rate)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    writer.transport.abort()
