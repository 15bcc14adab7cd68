"""Where bytes may go: the key to Segmind alone, pictures from Segmind alone, by the address checked."""

import asyncio
import base64
import contextlib
import socket
import threading
from pathlib import Path

import httpx
import pytest
from lanes import SHORT, hosts_of, request, small_fake

from fake_segmind import Fault
from klein9b.remote.client import DOWNLOAD_HOSTS, VERSION, Client, Timeouts
from klein9b.remote.errors import BadInput, DownloadRefused
from klein9b.remote.keys import Hosts, Key
from klein9b.remote.network import NotPublic, Proxied, PublicOnly
from klein9b.remote.protocol import NotSent, Rejection, Retry, Unknown

KEY = "SG_" + "0123456789abcdef"
PUBLIC = Hosts()


def client(hosts=PUBLIC, **rest):
    return Client(hosts, Key(KEY), timeouts=rest.pop("timeouts", SHORT), **rest)


def answered(status, body=b""):
    """A reply that is still to be read, as the network gives it."""
    return httpx.Response(status, stream=httpx.ByteStream(body))


def call(hosts, method, *args, **rest):
    async def once():
        made = client(hosts, **rest)
        try:
            return await getattr(made, method)(*args)
        finally:
            await made.aclose()

    return asyncio.run(once())


@pytest.mark.parametrize(
    "url",
    [
        "http://images.segmind.com/a.png",
        "https://images.segmind.com:8443/a.png",
        "https://user:pw@images.segmind.com/a.png",
        "https://evilsegmind.com/a.png",
        "https://images.segmind.com.evil.example/a.png",
        "https://segmind-resources.s3.amazonaws.com.evil.example/a.png",
        "https://other.s3.amazonaws.com/a.png",
        "https://127.0.0.1/a.png",
        "http://127.0.0.1:8188/history",
        "https://169.254.169.254/latest/meta-data",
        "https://images.segmind.com@evil.example/a.png",
        "https://evil.example\\@images.segmind.com/a.png",
        "//images.segmind.com/a.png",
        "file:///etc/passwd",
        "ftp://images.segmind.com/a.png",
        "",
    ],
)
def test_pictures_come_from_segmind_or_not_at_all(url):
    asked = []
    transport = httpx.MockTransport(lambda seen: asked.append(seen.url) or answered(200))
    with pytest.raises(DownloadRefused):
        call(PUBLIC, "download", url, transport=transport)
    assert not asked


@pytest.mark.parametrize("host", ["images.segmind.com", "a.b.segmind.com", *DOWNLOAD_HOSTS])
def test_pictures_are_fetched_without_the_key(host):
    seen = []

    def answer(asked):
        seen.append(asked)
        return answered(200, b"picture")

    transport = httpx.MockTransport(answer)
    assert call(PUBLIC, "download", f"https://{host}/a.png", transport=transport) == b"picture"
    assert "x-api-key" not in seen[0].headers and KEY not in str(seen[0].headers)


class Inner(Proxied):
    """Records where a connection would go."""

    def __init__(self, proxies=None, unreachable=()):
        self._proxies, self.went, self.unreachable, self._transports = proxies or {}, [], unreachable, {}

    async def handle_async_request(self, asked):
        self.went.append(asked)
        if asked.url.host in self.unreachable:
            raise httpx.ConnectError("refused")
        return answered(200, b"ok")


def fetch(inner, *resolved, allow_loopback=False):
    answers = iter(resolved)

    async def resolve(host, port):
        return list(next(answers))

    async def once():
        transport = PublicOnly(inner, allow_loopback=allow_loopback, resolve=resolve)
        async with httpx.AsyncClient(transport=transport) as http:
            return await http.get("https://images.segmind.com/a.png")

    return asyncio.run(once())


@pytest.mark.parametrize("bad", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], ["169.254.169.254"]])
def test_a_name_that_points_inside_is_refused_before_connecting(bad):
    inner = Inner()
    with pytest.raises(NotPublic):
        fetch(inner, bad)
    assert not inner.went


def test_the_address_connected_to_is_the_one_checked_and_tls_proves_the_name():
    """A second look-up, which a rebinding server would answer differently, never happens."""
    inner = Inner()
    fetch(inner, ["8.8.8.8"])
    (went,) = inner.went
    assert went.url.host == "8.8.8.8"
    assert went.headers["host"] == went.extensions["sni_hostname"] == "images.segmind.com"


def test_the_next_address_is_tried_when_one_is_down():
    inner = Inner(unreachable=["8.8.8.8"])
    assert fetch(inner, ["8.8.8.8", "1.1.1.1"]).content == b"ok"


def test_proxies_of_the_environment_are_used_but_never_for_loopback(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "direct.example")
    proxied = Proxied(httpx.create_ssl_context())
    chosen = {url: proxied.proxy_for(httpx.URL(url)) for url in (
        "https://api.segmind.com/v2", "https://127.0.0.1/x", "https://localhost/x", "https://direct.example/x",
    )}  # fmt: skip
    assert list(chosen.values()) == ["http://proxy.example:3128", "", "", ""]


@contextlib.contextmanager
def a_proxy():
    """Reads what a client says to a proxy and refuses it."""
    heard = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
    server.close()


def test_a_connect_to_a_proxy_does_not_carry_the_key_and_its_refusal_is_not_a_submit(monkeypatch):
    with a_proxy() as (url, heard):
        monkeypatch.setenv("https_proxy", url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert isinstance(call(PUBLIC, "submit", b"{}"), NotSent)
        assert isinstance(call(PUBLIC, "status", "request-1"), Retry)
    assert len(heard) == 2 and all(said.startswith(b"CONNECT api.segmind.com:443") for said in heard)
    assert KEY.encode() not in b"".join(heard) and b"x-api-key" not in b"".join(heard).lower()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_a_sentence_and_nothing_is_sent(monkeypatch, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    got = call(PUBLIC, "submit", b"{}")
    assert isinstance(got, NotSent) and "proxy" in got.why


def test_netrc_is_not_read(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with small_fake() as fake:
        call(hosts_of(fake), "status", "request-1")
        (seen,) = fake.requests
        assert seen.header("authorization") is None
        assert not seen.carries(base64.b64encode(b"me:secret").decode())


def test_nobody_listening_means_not_sent():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        dead = f"http://127.0.0.1:{server.getsockname()[1]}"
    hosts = Hosts(api=dead, storage=dead, account=dead)
    assert isinstance(call(hosts, "submit", b"{}"), NotSent)
    answer = call(hosts, "status", "request-1")
    assert isinstance(answer, Retry) and not answer.connected


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout,
        httpx.WriteTimeout,
        httpx.ReadError,
        httpx.WriteError,
        httpx.RemoteProtocolError,
        httpx.LocalProtocolError,
    ],
)
def test_anything_after_the_connection_means_unknown(error):
    def answer(asked):
        raise error(f"with {KEY} in it", request=asked)

    got = call(PUBLIC, "submit", b"{}", transport=httpx.MockTransport(answer))
    assert isinstance(got, Unknown) and KEY not in repr(got)


def test_a_redirect_of_anything_is_not_followed():
    with small_fake() as fake:
        for route, method, args in (
            ("submit", "submit", (b"{}",)),
            ("status", "status", ("request-1",)),
            ("result", "result", ("request-1",)),
            ("upload", "upload", (["data:image/png;base64,AA=="],)),
            ("credits", "credits", ()),
            ("history", "history", ("2026-01-01", "2026-01-02")),
            ("history_item", "record", ("request-1",)),
        ):
            fake.script(route, Fault.redirect(status=307))
            assert isinstance(call(hosts_of(fake), method, *args), (Rejection, Unknown))
        assert not fake.requests_to("evil") and not fake.key_leaks


def test_the_key_goes_to_no_other_host():
    with pytest.raises(BadInput):
        Key(KEY).header_for("https://images.segmind.com/x", PUBLIC)


@pytest.mark.parametrize("route", ["status", "result"])
def test_a_bomb_is_not_inflated(route):
    import tracemalloc

    with small_fake() as fake:
        fake.script(route, Fault.gzip_bomb(64))
        call(hosts_of(fake), "credits")
        tracemalloc.start()
        answer = call(hosts_of(fake), route, "request-1", timeouts=Timeouts())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert isinstance(answer, Retry) and "more than" in answer.why
    assert peak < 40 << 20, "the fake's own bomb is 64 MiB of blanks packed; we may hold 4"


def test_one_word_about_ourselves():
    seen = []
    transport = httpx.MockTransport(lambda asked: seen.append(asked) or answered(500))
    call(PUBLIC, "submit", request().prompt.encode(), transport=transport)
    assert seen[0].headers["user-agent"].startswith("comfyui-klein9b/")
    assert "x-initiator" not in seen[0].headers
    pyproject = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'version = "{VERSION}"' in pyproject


def test_a_submit_has_a_connection_of_its_own_and_looks_share_one():
    """An idle connection that dies as we write would make a lost submit of one that never left."""
    opened = []

    async def serve(reader, writer):
        opened.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def calls():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        made = client(Hosts(api=base, storage=base, account=base))
        counts = []
        for call in (lambda: made.submit(b""), lambda: made.status("request-1")):
            before = len(opened)
            for _ in range(3):
                assert isinstance(await call(), Rejection)
            counts.append(len(opened) - before)
        await made.aclose()
        server.close()
        return counts

    assert asyncio.run(calls()) == [3, 1]
