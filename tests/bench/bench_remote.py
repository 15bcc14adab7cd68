"""What the remote lane does to its server and its host: 200 jobs at once, and polls against added latency.

The fake Segmind runs in the same process, so its memory is counted too. Times of the second part are the model's (a
mean near 13.6 s, as Segmind's page says), played `PACE` times as fast; both clients meet the same latencies on the same
kind of server.
"""

import asyncio
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import lanes

from fake_segmind import Behaviour, Settings
from klein9b.remote.client import Timeouts
from klein9b.remote.service import Terms

PACE = 5.0
AT_ONCE = 8
PATIENT = Timeouts()


def main():
    """Rows of {"name", "value", "unit", "limit"}."""
    flood(jobs=100)  # what a first run allocates for good
    full = flood(jobs=200)
    ours, sdk = cadence(jobs=48)
    return [
        row("200 jobs at once", full.seconds, "s"),
        row("200 jobs at once: in flight, most", full.in_flight, limit=AT_ONCE),
        row("200 jobs at once: charges", full.charges, limit=200),
        row("200 jobs at once: peak memory above the start", full.peak_mib, "MiB", limit=16),
        row("200 jobs at once: files left open", full.files_left, limit=0),
        row("status requests per job", ours.polls, limit=8),
        row("status requests per job, the official SDK at 1 Hz", sdk.polls),
        row("a finished job seen late by, mean", ours.late_s, "s", limit=1.5),
        row("a finished job seen late by, mean, the official SDK at 1 Hz", sdk.late_s, "s"),
    ]


def row(name, value, unit="", limit=None):
    return {"name": name, "value": value, "unit": unit, "limit": limit}


@dataclass(frozen=True)
class Flood:
    """What many jobs at once did."""

    seconds: float
    in_flight: int
    charges: int
    peak_mib: float
    files_left: int


@dataclass(frozen=True)
class Cadence:
    """How often a client asked for each job, and how late it saw the end."""

    polls: float
    late_s: float


def flood(jobs):
    """All jobs at once; the picture of each is 512 x 512."""
    with lanes.FakeSegmind(Behaviour(run_seconds=0.1), Settings(credits=1e6)) as fake:
        with tempfile.TemporaryDirectory() as folder, Watch(fake) as watch:
            clock = lanes.FastClock(PACE)
            lane = lanes.make_lane(fake, Path(folder), clock=clock, timeouts=PATIENT)
            began = time.perf_counter()
            asyncio.run(nodes(lane, jobs))
            took = time.perf_counter() - began
            asyncio.run(lane.close())
        assert fake.submits == jobs
        return Flood(took, watch.in_flight, len(fake.ledger), watch.peak_mib, watch.files_left)


async def nodes(lane, jobs):
    """Each job as a node of its own, whose picture the graph has used up when the next comes."""

    async def node(seed):
        await lane.run([lanes.request(seed=seed)], [], Terms(timeout_s=3300))

    await asyncio.gather(*(node(seed) for seed in range(jobs)))


class Watch:
    """Samples jobs in flight, memory and open files every 20 ms."""

    def __init__(self, fake):
        self._fake, self._over = fake, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.in_flight = self.peak_mib = self.files_left = 0

    def __enter__(self):
        self._start, self._files = memory_mib(), open_files()
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()
        self.files_left = open_files() - self._files

    def _run(self):
        while not self._over.wait(0.02):
            now = self._fake.clock.now()
            self.in_flight = max(self.in_flight, sum(j.state(now) != "COMPLETED" for j in self._fake.jobs))
            self.peak_mib = max(self.peak_mib, memory_mib() - self._start)


def cadence(jobs):
    """Of ours and of the official SDK, on the same jobs."""
    behaviours = latencies(jobs)
    return ours(behaviours), official(behaviours)


def latencies(jobs):
    """Queue and run times: mostly near the page's mean, one in sixteen a slow start."""
    rng = random.Random(9)
    runs = [rng.lognormvariate(2.45, 0.25) for _ in range(jobs)]
    queues = [rng.expovariate(1.0) if n % 16 else rng.uniform(10, 30) for n in range(jobs)]
    return [Behaviour(queue / PACE, run / PACE) for queue, run in zip(queues, runs)]


def ours(behaviours):
    with lanes.small_fake(credits=1e6) as fake, tempfile.TemporaryDirectory() as folder:
        fake.behave(*behaviours)
        clock = lanes.FastClock(PACE)
        lane = lanes.make_lane(fake, Path(folder), clock=clock, timeouts=PATIENT, in_flight=AT_ONCE)
        requests = [lanes.request(seed=seed) for seed in range(len(behaviours))]
        asyncio.run(lane.run(requests, [], Terms(timeout_s=3300)))
        asyncio.run(lane.close())
        return measures(fake)


def official(behaviours):
    """The SDK's own loop, one thread a job, eight at once."""
    from fake_segmind import sdk
    from fake_segmind.settings import SLUG

    with lanes.small_fake(credits=1e6) as fake:
        fake.behave(*behaviours)

        def one(seed):
            body = lanes.request(seed=seed).body()
            sdk.client_of(fake).submit_async(SLUG, **body).wait(timeout=3300, interval=1.0 / PACE)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, range(len(behaviours))))
        return measures(fake)


def measures(fake):
    """Late is between a job's end and the first request for its result."""
    polls, results = fake.requests_to("status"), fake.requests_to("result")
    first = {}
    for seen in results:
        first.setdefault(seen.path.rsplit("/", 1)[1], seen.at)
    late = [(first[job.request_id] - job.finished) * PACE for job in fake.jobs]
    assert len(fake.ledger) == len(fake.jobs)
    return Cadence(len(polls) / len(fake.jobs), statistics.mean(late))


def memory_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))
