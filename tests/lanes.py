"""Lanes against the fake, in a hurry: one second here is `PACE` seconds for the code under test."""

import asyncio
import contextlib
import time

from pack import importable

importable()

from fake_segmind import FakeSegmind, Settings  # noqa: E402
from klein9b.remote import session  # noqa: E402
from klein9b.remote.client import Timeouts  # noqa: E402
from klein9b.remote.governor import Governor  # noqa: E402
from klein9b.remote.keys import Hosts, Key  # noqa: E402
from klein9b.remote.request import KleinRequest  # noqa: E402
from klein9b.remote.service import Account, Terms, list_jobs  # noqa: E402
from klein9b.remote.session import Session  # noqa: E402

PACE = 100.0
session.WATCH_S = 0.01
SHORT = Timeouts(connect_s=1.5, submit_s=1.5, get_s=1.5, upload_s=1.5, download_s=1.5)


class FastClock:
    """Runs `pace` times as fast as the world, from the same moment; `slept` is added to its wall time."""

    def __init__(self, pace=PACE):
        self._pace, self._wall, self._start, self.slept = pace, time.time(), time.monotonic(), 0.0

    def monotonic(self):
        return (time.monotonic() - self._start) * self._pace

    def wall(self):
        return self._wall + self.monotonic() + self.slept

    async def sleep(self, seconds):
        await asyncio.sleep(seconds / self._pace)


def small_fake(**settings):
    return FakeSegmind(settings=Settings(pixels=32 * 32, **settings))


def hosts_of(fake):
    return Hosts(api=fake.api_url, storage=fake.storage_url, account=fake.account_url)


def account_of(fake, directory):
    return Account(directory, Key(fake.key), hosts_of(fake))


def make_lane(fake, directory, *, clock=None, timeouts=SHORT, in_flight=8, worker=None):
    clock = clock or FastClock()
    return Session(
        account_of(fake, directory),
        worker=worker,
        governor=lambda: Governor(per_minute=60000, burst=1000, in_flight=in_flight, clock=clock),
        timeouts=timeouts,
    )


@contextlib.contextmanager
def a_lane(fake, directory, **wishes):
    lane = make_lane(fake, directory, **wishes)
    try:
        yield lane
    finally:
        asyncio.run(lane.close())


def request(prompt="a red fox", **changes):
    return KleinRequest(prompt=prompt, **{"seed": 7, **changes})


def batch(count):
    return [request(seed=n) for n in range(count)]


def run(lane, *requests, arrays=(), **terms):
    """Pictures for the requests, from a loop that ends with them, as the host does it."""
    return asyncio.run(lane.run(list(requests), list(arrays), Terms(**terms)))


def settled(directory, states, within=5.0):
    """The journal's rows once they are in these states."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        rows = list_jobs(directory)
        if [row.state for row in rows] == states:
            return rows
        time.sleep(0.02)
    raise AssertionError([row.state for row in rows])
