"""Everything a host tells the people who watch it."""

import asyncio
import threading


class Watcher:
    """Collects every websocket message, text and binary, as bytes. A context manager."""

    client_id = "watcher"

    def __init__(self, host) -> None:
        self._url = f"{host.url}/ws?clientId={self.client_id}"
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), daemon=True)
        self.messages: list[bytes] = []

    def __enter__(self) -> "Watcher":
        self._thread.start()
        assert self._ready.wait(10), "the host's websocket did not open"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def said(self) -> str:
        return b"\n".join(self.messages).decode(errors="replace")

    async def _watch(self) -> None:
        import aiohttp  # comes with the host

        async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket:
            self._ready.set()
            while not self._stop.is_set():
                try:
                    message = await socket.receive(timeout=0.1)
                except asyncio.TimeoutError:
                    continue
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return
                self.messages.append(message.data.encode() if isinstance(message.data, str) else message.data)
