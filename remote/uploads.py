"""References on their way to Segmind: the same bytes are put online once."""

from __future__ import annotations

import asyncio
import functools

from . import explain
from .client import Client
from .dates import DAY_S
from .governor import Priority
from .images import Encoded, data_url
from .journal import Journal
from .protocol import Rejection, Retry
from .retry import Retrier
from .values import LONGEST_WAIT_S

REUSE_S = 6 * DAY_S  # a day less than Segmind is known to keep what it makes


class Uploads:
    """What is online of one account; the journal remembers it."""

    def __init__(self, client: Client, journal: Journal, retrier: Retrier) -> None:
        self._client, self._journal, self._retrier = client, journal, retrier
        self._one_at_a_time = asyncio.Lock()

    async def address(self, reference: Encoded) -> str:
        """Where the image is online; uploads it where it is not.

        Raises:
            SegmindError: Segmind refuses it or cannot be reached. No job was sent.
        """
        host = self._client.hosts.storage
        async with self._one_at_a_time:
            known = self._journal.upload(reference.sha256, host, REUSE_S)
            if known:
                return known
            deadline = self._retrier.clock.monotonic() + LONGEST_WAIT_S
            upload = functools.partial(self._client.upload, [data_url(reference)])
            urls = await self._retrier.ask(upload, Priority.SUBMIT, host, deadline)
            if isinstance(urls, Rejection):
                raise explain.upload_refused(urls)
            if isinstance(urls, Retry):
                raise explain.unreachable(urls.why)
            self._journal.uploaded(reference.sha256, host, urls[0])
            return urls[0]
