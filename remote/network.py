"""How bytes reach the network: proxies from the environment, and downloads from public addresses only.

httpx runs with trust_env=False, so no .netrc password is ever added; the proxies that the environment names
are honoured here instead. The key is a header of the request itself, which a CONNECT does not carry.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from urllib.request import getproxies, proxy_bypass

import httpx

from .addresses import is_loopback, is_public

Resolver = Callable[[str, int], Awaitable[list[str]]]


class NotPublic(httpx.ConnectError):
    """A name that should be on the internet resolved to this machine or a private network."""


class Proxied(httpx.AsyncBaseTransport):
    """Sends each request direct or through the proxy that the environment names for it, never for loopback.

    Args:
        keepalive: idle connections kept; 0 gives each request a fresh one.
    """

    def __init__(self, tls: ssl.SSLContext, *, keepalive: int = 20, proxies: Mapping[str, str] | None = None) -> None:
        self._tls, self._proxies = tls, getproxies() if proxies is None else proxies
        self._limits = httpx.Limits(max_connections=100, max_keepalive_connections=keepalive)
        self._transports: dict[str, httpx.AsyncHTTPTransport] = {}

    def proxy_for(self, url: httpx.URL) -> str:
        """The proxy's address, empty for none."""
        if is_loopback(url.host) or proxy_bypass(url.host):
            return ""
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all") or ""
        return proxy if not proxy or "://" in proxy else f"http://{proxy}"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport(self.proxy_for(request.url)).handle_async_request(request)

    def _transport(self, proxy: str) -> httpx.AsyncHTTPTransport:
        if proxy not in self._transports:
            try:
                self._transports[proxy] = httpx.AsyncHTTPTransport(
                    verify=self._tls, trust_env=False, limits=self._limits, proxy=proxy or None
                )
            except (ImportError, ValueError, httpx.InvalidURL):
                kind = proxy.partition(":")[0]
                raise httpx.ProxyError(f"the environment names a {kind} proxy that cannot be used") from None
        return self._transports[proxy]

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


class PublicOnly(httpx.AsyncBaseTransport):
    """Connects to the very address it checked, so that a name cannot resolve differently the second time.

    TLS still proves the name. Behind a proxy it is the proxy that resolves, and only names are checked.

    Args:
        allow_loopback: for a gateway that is itself on loopback.
    """

    def __init__(self, inner: Proxied, *, allow_loopback: bool = False, resolve: Resolver | None = None) -> None:
        self._inner, self._allow_loopback, self._resolve = inner, allow_loopback, resolve or resolve_all

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._inner.proxy_for(request.url):
            return await self._inner.handle_async_request(request)
        host, port = request.url.host, request.url.port or 443
        addresses = await self._resolve(host, port)
        for address in addresses:
            if not is_public(address) and not (self._allow_loopback and is_loopback(address)):
                raise NotPublic(f"{host} is at {address}, which is not a public address")
        return await self._connect(request, addresses)

    async def _connect(self, request: httpx.Request, addresses: list[str]) -> httpx.Response:
        """Tries the checked addresses in order."""
        extensions = {**request.extensions, "sni_hostname": request.url.host}
        failure: httpx.TransportError = httpx.ConnectError(f"{request.url.host} has no address")
        for address in addresses:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    async def aclose(self) -> None:
        await self._inner.aclose()


async def resolve_all(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise httpx.ConnectError(f"{host} cannot be resolved") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
