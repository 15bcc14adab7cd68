"""The official client pointed at a fake, otherwise unchanged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx
import pytest
import segmind

from .server import FakeSegmind

if TYPE_CHECKING:
    from segmind import SegmindClient

REAL_HOSTS = {
    "api.segmind.com": "api",
    "workflows-api.segmind.com": "storage",
    "api.spotprod.segmind.com": "account",
}


class Detour(httpx.HTTPTransport):
    """Carries requests for the real hosts to the fake's origin of the same role."""

    def __init__(self, fake: FakeSegmind) -> None:
        super().__init__()
        self._urls = fake.urls

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        role = REAL_HOSTS.get(request.url.host)
        if role:
            home = httpx.URL(self._urls[role])
            request.url = request.url.copy_with(scheme="http", host=home.host, port=home.port)
            request.headers["host"] = f"{home.host}:{home.port}"
        return super().handle_request(request)


def client_of(fake: FakeSegmind, key: str | None = None, timeout: float = 10.0) -> SegmindClient:
    """A SegmindClient whose only change is its base_url."""
    chosen = fake.key if key is None else key
    return segmind.SegmindClient(api_key=chosen, base_url=f"{fake.api_url}/v1", timeout=timeout)


def detoured_client_of(fake: FakeSegmind) -> SegmindClient:
    """A SegmindClient with its own hard-coded hosts, its sockets alone taken to the fake."""
    client = segmind.SegmindClient(api_key=fake.key)
    client._client = httpx.Client(
        headers=client._client.headers, base_url=client.base_url, transport=Detour(fake), timeout=10.0
    )
    return client


def move_constants(fake: FakeSegmind, patch: pytest.MonkeyPatch) -> None:
    """The two module constants that name hosts the constructor cannot override."""
    patch.setattr(sys.modules["segmind.files"].Files, "STORAGE_BASE_URL", fake.storage_url)
    history = f"{fake.account_url}/inference-request/request-history"
    patch.setattr(sys.modules["segmind.generations"], "REQUEST_HISTORY_URL", history)
