"""Each fault, seen from a bare socket: what arrived, how it ended, and whether the job exists."""

from __future__ import annotations

import json
import socket
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .faults import Fault, flapping
from .jobs import Behaviour
from .plan import ROUTES, FaultPlan, route_of
from .server import FakeSegmind
from .settings import SLUG

Ending = str
SUBMIT = json.dumps({"prompt": "a cup"}).encode()
SILENCE_SECONDS = 1.0


def submit_bytes(fake: FakeSegmind) -> bytes:
    head = (
        f"POST /v2/{SLUG} HTTP/1.1\r\nHost: x\r\nx-api-key: {fake.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(SUBMIT)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + SUBMIT


def where(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def talk(url: str, data: bytes, timeout: float = 10.0) -> tuple[bytes, Ending]:
    """Send bytes, read to the end. The ending is eof, reset or silence."""
    received = b""
    with socket.create_connection(where(url), timeout=timeout) as sock:
        sock.sendall(data)
        while True:
            try:
                block = sock.recv(65536)
            except ConnectionResetError:
                return received, "reset"
            except TimeoutError:
                return received, "silence"
            if not block:
                return received, "eof"
            received += block


def body_of(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[2]


def faulted(fake: FakeSegmind, *faults: Fault, timeout: float = 10.0) -> tuple[bytes, Ending]:
    fake.script("submit", *faults)
    return talk(fake.api_url, submit_bytes(fake), timeout)


def test_nothing_wrong(fake: FakeSegmind) -> None:
    received, ending = talk(fake.api_url, submit_bytes(fake))
    assert ending == "eof" and received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body_of(received))["request_id"] == fake.jobs[0].request_id


@pytest.mark.parametrize(
    ("fault", "ending", "jobs"),
    [
        (Fault.reset_before_body(), "reset", 0),
        (Fault.reset_after_request(), "reset", 1),
        (Fault.close_after_request(), "eof", 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_no_answer_at_all(fake: FakeSegmind, fault: Fault, ending: Ending, jobs: int) -> None:
    assert faulted(fake, fault) == (b"", ending)
    assert (len(fake.jobs), fake.submits) == (jobs, 1)
    assert fake.requests[0].fault == fault.name


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(k=st.integers(0, 300), reset=st.booleans())
def test_an_answer_is_cut_at_any_byte(fake: FakeSegmind, k: int, reset: bool) -> None:
    before = len(fake.jobs)
    received, ending = faulted(fake, Fault.reset_at(k) if reset else Fault.close_at(k))
    assert len(received) == k and received == b"HTTP/1.1 200 OK"[:k] + received[15:]
    assert ending == ("reset" if reset else "eof")
    assert len(fake.jobs) == before + 1


def test_stalls(fake: FakeSegmind) -> None:
    assert faulted(fake, Fault.stall_headers(), timeout=SILENCE_SECONDS) == (b"", "silence")
    received, ending = faulted(fake, Fault.stall_body(k=3), timeout=SILENCE_SECONDS)
    assert ending == "silence" and len(body_of(received)) == 3
    received, ending = faulted(fake, Fault.stall_headers(0.2))
    assert ending == "eof" and json.loads(body_of(received))
    assert len(fake.jobs) == 3


def test_trickle(fake: FakeSegmind) -> None:
    begin = time.monotonic()
    received, _ = faulted(fake, Fault.trickle(1000))
    assert time.monotonic() - begin >= len(received) / 1000 * 0.9
    assert json.loads(body_of(received))


def test_bodies_that_lie(fake: FakeSegmind) -> None:
    assert not body_of(faulted(fake, Fault.empty_body())[0])
    received, _ = faulted(fake, Fault.truncated_json(10))
    assert b"Content-Length: 10\r\n" in received and len(body_of(received)) == 10
    received, ending = faulted(fake, Fault.wrong_length(7))
    length = int(received.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    assert length == len(body_of(received)) + 7 and ending == "eof"
    received, _ = faulted(fake, Fault.chunked_garbage())
    assert b"Transfer-Encoding: chunked" in received and b"Content-Length" not in received
    assert b"not-a-size" in body_of(received)
    assert faulted(fake, Fault.raw("garbage")) == (b"garbage", "eof")
    assert len(fake.jobs) == 5


def test_gzip_bomb_is_small_outside_and_true_inside(fake: FakeSegmind) -> None:
    packed = body_of(faulted(fake, Fault.gzip_bomb(32))[0])
    plain = zlib.decompress(packed, zlib.MAX_WBITS | 16)
    assert len(packed) < 2**20 and len(plain) > 32 * 2**20
    assert json.loads(plain)["request_id"] == fake.jobs[0].request_id


def test_pixel_bomb_is_a_small_valid_png(fake: FakeSegmind) -> None:
    fake.script("output", Fault.pixel_bomb(3000))
    data = httpx.get(f"{fake.image_url}/generations/x.png").content
    assert len(data) < 10_000 and data[16:24] == (3000).to_bytes(4, "big") * 2
    chunk = data[data.index(b"IDAT") + 4 :]
    assert zlib.decompressobj().decompress(chunk) == bytes(3000 * (1 + 375))


@pytest.mark.parametrize("effect", [False, True])
@pytest.mark.parametrize("fault", [Fault.html, Fault.server_error], ids=["html", "server_error"])
def test_a_refusal_may_hide_an_acceptance(fake: FakeSegmind, fault: Any, effect: bool) -> None:
    made = fault(504, effect=effect) if fault == Fault.html else fault(effect=effect)
    received, _ = faulted(fake, made)
    assert received.startswith((b"HTTP/1.1 504", b"HTTP/1.1 500"))
    assert len(fake.jobs) == effect


def test_redirects(fake: FakeSegmind) -> None:
    received, _ = faulted(fake, Fault.redirect())
    assert f"Location: {fake.evil_url}/v2/{SLUG}\r\n".encode() in received
    assert b"Location: file:///etc/hostname\r\n" in faulted(fake, Fault.redirect_to_file())[0]
    assert b"Location: http://127.0.0.1:1/x\r\n" in faulted(fake, Fault.redirect("http://127.0.0.1:1/x"))[0]
    assert fake.jobs == ()


def test_foreign_urls_and_patches(fake: FakeSegmind) -> None:
    moved = json.loads(body_of(faulted(fake, Fault.foreign_urls())[0]))
    request_id = fake.jobs[0].request_id
    assert moved["request_id"] == request_id
    assert moved["status_url"] == f"{fake.evil_url}/v2/requests/{request_id}/status"
    patched = json.loads(body_of(faulted(fake, Fault.patch({"status": "{evil}"}, drop=["poll_url"]))[0]))
    assert patched["status"] == fake.evil_url and "poll_url" not in patched


def test_rate_limits_with_and_without_a_header(fake: FakeSegmind) -> None:
    received, _ = faulted(fake, Fault.rate_limited(5, "epoch"))
    reset = int(received.split(b"x-rate-limit-reset-at-utc: ")[1].split(b"\r\n")[0])
    assert 3 < reset - fake.clock.now() <= 5
    received, _ = faulted(fake, Fault.rate_limited(reset=None, retry_after="7"))
    assert b"rate-limit" not in received.split(b"\r\n\r\n")[0] and b"Retry-After: 7\r\n" in received
    assert fake.jobs == ()


def test_a_kept_connection_goes_stale(fake: FakeSegmind) -> None:
    fake.script("credits", Fault.close_after_reply())
    request = f"GET /v1/get-user-credits HTTP/1.1\r\nHost: x\r\nx-api-key: {fake.key}\r\n\r\n".encode()
    received, ending = talk(fake.api_url, request)
    assert ending == "eof" and received.startswith(b"HTTP/1.1 200") and b"Connection: close" not in received
    assert talk(fake.api_url, request, SILENCE_SECONDS)[1] == "silence", "otherwise it is kept alive"


def test_scripts_count_requests_of_their_route(fake: FakeSegmind) -> None:
    fake.script("credits", Fault.error("first", 500), Fault.none(), Fault.error("third", 500), nth=2)
    fake.script("history", Fault.error("history", 500), forever=True)
    with httpx.Client(headers={"x-api-key": fake.key}) as http:
        credits = [http.get(f"{fake.api_url}/v1/get-user-credits").status_code for _ in range(6)]
        history = [http.get(f"{fake.account_url}/inference-request/request-history").status_code for _ in range(3)]
    assert credits == [200, 500, 200, 500, 200, 200] and history == [500] * 3


def test_flapping_cycles_through_gateway_errors(fake: FakeSegmind) -> None:
    fake.script("api", *flapping(4))
    with httpx.Client(headers={"x-api-key": fake.key}) as http:
        seen = [http.get(f"{fake.api_url}/v1/get-user-credits").status_code for _ in range(5)]
    assert seen == [502, 503, 504, 502, 200]


def test_a_script_must_name_something() -> None:
    with pytest.raises(ValueError, match="no route or role"):
        FaultPlan().add("sumbit", [Fault.none()], 1, False)
    with pytest.raises(ValueError, match="counts requests from 1"):
        FaultPlan().add("submit", [], 1, False)


def test_every_route_name_can_be_met() -> None:
    requests = [
        ("api", "POST", f"/v2/{SLUG}"), ("api", "POST", f"/v1/{SLUG}"),
        ("api", "GET", "/v1/get-user-credits"),
        ("api", "GET", "/v2/requests/a/status"), ("api", "GET", "/v2/requests/a"),
        ("storage", "POST", "/upload-asset"),
        ("account", "GET", "/inference-request/request-history"),
        ("account", "GET", "/inference-request/request-history/a"),
        ("account", "GET", "/inference-request/generations"),
        ("account", "GET", "/inference-request/recent-generations"),
        ("account", "GET", "/inference-model-information/list"),
        ("image", "GET", "/generations/a.png"), ("image", "GET", "/assets/a.png"), ("evil", "GET", "/"),
        ("api", "GET", "/"),
    ]  # fmt: skip
    assert {route_of(*request) for request in requests} == ROUTES


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_no_bytes_bring_it_down(fake: FakeSegmind, data: bytes) -> None:
    with socket.create_connection(where(fake.api_url), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    assert talk(fake.api_url, submit_bytes(fake))[0].startswith(b"HTTP/1.1 200 OK")


def test_request_bodies_arrive_chunked_and_after_100_continue(fake: FakeSegmind) -> None:
    def parts() -> Any:
        yield SUBMIT[:5]
        yield SUBMIT[5:]

    headers = {"x-api-key": fake.key, "content-type": "application/json"}
    response = httpx.post(f"{fake.api_url}/v2/{SLUG}", content=parts(), headers=headers)
    assert response.status_code == 200
    head, body = submit_bytes(fake).split(b"\r\n\r\n")
    received, _ = talk(fake.api_url, head + b"\r\nExpect: 100-continue\r\n\r\n" + body)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert [job.body for job in fake.jobs] == [{"prompt": "a cup"}] * 2


def test_faults_do_not_touch_the_money(fake: FakeSegmind) -> None:
    """Whatever the answer looked like, a job that exists and completes costs once."""
    fake.behaviour = Behaviour(cost=1.0)
    for fault in (Fault.reset_after_request(), Fault.html(504, effect=True), Fault.truncated_json()):
        faulted(fake, fault)
    assert fake.balance == pytest.approx(7.0)
