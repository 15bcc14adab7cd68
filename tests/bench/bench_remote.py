"""What the remote lane does to its server and its host: 200 jobs at once, and requests against lateness.

The fake Segmind runs in the same process, so its memory is counted too. The times of the second part are played faster
or slower than the world, for the fake and the lane alike; the official SDK meets the same jobs on the same kind of
server. Its jobs are of one length each, of which the lane knows twenty (`remote/cadence.py` says what is aimed at), and
then jobs near the mean of 13.6 s of Segmind's page, one in sixteen with a slow start, of which it knows none.
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
from klein9b.remote.cadence import KEPT
from klein9b.remote.client import Timeouts
from klein9b.remote.journal import Journal
from klein9b.remote.journal_restore import JOURNAL_FILE
from klein9b.remote.service import Terms

PACE = 5.0
AT_ONCE = 8
LENGTHS_S = (1.0, 3.0, 8.0, 13.6, 30.0, 60.0)
BATCH_S = 8.0  # that eight jobs take in the world's time: in less, the machine is what is measured
PATIENT = Timeouts()


def main():
    """Rows of {"name", "value", "unit", "limit"}."""
    flood(jobs=100)  # what a first run allocates for good
    full = flood(jobs=200)
    return [
        row("200 jobs at once", full.seconds, "s"),
        row("200 jobs at once: in flight, most", full.in_flight, limit=AT_ONCE),
        row("200 jobs at once: charges", full.charges, limit=200),
        row("200 jobs at once: peak memory above the start", full.peak_mib, "MiB", limit=16),
        row("200 jobs at once: files left open", full.files_left, limit=0),
        *jobs_of_one_length(),
        *jobs_of_which_none_is_known(),
    ]


def jobs_of_one_length():
    """The bars: each within 1 s and 25 % of its length, at 8 requests a job over the lengths."""
    seen = {length: cadence(steady(length, 16), pace_of(length), known=steady(length, KEPT)) for length in LENGTHS_S}
    for length, (ours, sdk) in seen.items():
        yield row(f"a job of {length:g} s seen late by, mean", ours.late_s, "s", limit=min(1.0, 0.25 * length))
        yield row(f"a job of {length:g} s seen late by, the official SDK at 1 Hz", sdk.late_s, "s")
        yield row(f"a job of {length:g} s: requests", ours.requests)
        yield row(f"a job of {length:g} s: requests, the official SDK at 1 Hz", sdk.requests)
    requests = [(ours.requests, sdk.requests) for ours, sdk in seen.values()]
    yield row("requests a job, mean over these lengths", statistics.mean(one for one, _ in requests), limit=8)
    yield row("requests a job, the official SDK at 1 Hz", statistics.mean(one for _, one in requests))


def jobs_of_which_none_is_known():
    ours, sdk = cadence(latencies(48), PACE)
    yield row("48 first jobs: requests a job", ours.requests, limit=12)
    yield row("48 first jobs: requests a job, the official SDK at 1 Hz", sdk.requests)
    yield row("48 first jobs: seen late by, mean", ours.late_s, "s", limit=1.0)
    yield row("48 first jobs: seen late by, the official SDK at 1 Hz", sdk.late_s, "s")


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
    """Requests a job, its submit and its result among them, and how late a client saw the end."""

    requests: float
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


def pace_of(length_s):
    return length_s / BATCH_S


def steady(length_s, count):
    """Jobs of one length: making varies by a twentieth, the queue takes a twentieth on average."""
    rng = random.Random(count)
    making, queue = 0.95 * length_s, 0.05 * length_s
    return [Behaviour(rng.expovariate(1 / queue), making * rng.lognormvariate(0.0, 0.05)) for _ in range(count)]


def latencies(jobs):
    """Mostly near the page's mean, one in sixteen a slow start."""
    rng = random.Random(9)
    runs = [rng.lognormvariate(2.45, 0.25) for _ in range(jobs)]
    queues = [rng.expovariate(1.0) if n % 16 else rng.uniform(10, 30) for n in range(jobs)]
    return [Behaviour(queue, run) for queue, run in zip(queues, runs)]


def cadence(behaviours, pace, known=()):
    """Of ours and of the official SDK, on the same jobs, one after the other so that neither is in the other's way."""
    return ours(behaviours, pace, known), official(behaviours, pace)


def ours(behaviours, pace, known):
    with lanes.small_fake(credits=1e6) as fake, tempfile.TemporaryDirectory() as folder:
        fake.behave(*behaviours)
        fake.clock.pace = pace
        remember(Path(folder), known)
        lane = lanes.make_lane(fake, Path(folder), clock=lanes.FastClock(pace), timeouts=PATIENT, in_flight=AT_ONCE)
        requests = [lanes.request(seed=seed) for seed in range(len(behaviours))]
        asyncio.run(lane.run(requests, [], Terms(timeout_s=3300)))
        asyncio.run(lane.close())
        return measures(fake)


def remember(folder, known):
    """A journal of earlier jobs."""
    journal = Journal(folder / JOURNAL_FILE)
    for number, one in enumerate(known):
        row = journal.claim(f"earlier {number}", prompt="", seed=number)
        journal.submitting(row.id, "")
        journal.accepted(row.id, f"earlier-{number}")
        journal.settle(row.id, 0.04, None, one.queue_seconds, one.run_seconds)
        journal.kept(row.id, "0" * 64)
    journal.close()


def official(behaviours, pace):
    """The SDK's own loop, one thread a job, eight at once."""
    from fake_segmind import sdk
    from fake_segmind.settings import SLUG

    with lanes.small_fake(credits=1e6) as fake:
        fake.behave(*behaviours)
        fake.clock.pace = pace

        def one(seed):
            body = lanes.request(seed=seed).body()
            sdk.client_of(fake).submit_async(SLUG, **body).wait(timeout=3300, interval=1.0 / pace)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, range(len(behaviours))))
        return measures(fake)


def measures(fake):
    """Late is between a job's end and the first request for its result."""
    asked = [seen for route in ("submit", "status", "result") for seen in fake.requests_to(route)]
    first = {}
    for seen in fake.requests_to("result"):
        first.setdefault(seen.path.rsplit("/", 1)[1], seen.at)
    late = [first[job.request_id] - job.finished for job in fake.jobs]
    assert len(fake.ledger) == len(fake.jobs)
    return Cadence(len(asked) / len(fake.jobs), statistics.mean(late))


def memory_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))
