"""What the remote lane does to its server and its host: 200 jobs at once, and polls against added latency.

Run as ``python tests/bench/bench_remote.py``; the fake Segmind runs in the same process, so its memory is
counted too. Times of the second part are the model's (a mean near 13.6 s, as Segmind's page says), played
`PACE` times as fast; both clients meet the same latencies on the same kind of server.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
if "klein9b" not in sys.modules:
    sys.modules["klein9b"] = types.ModuleType("klein9b")
    sys.modules["klein9b"].__path__ = [str(TESTS.parent)]

import lanes  # noqa: E402

from fake_segmind import Behaviour, Settings  # noqa: E402
from klein9b.remote.client import Timeouts  # noqa: E402
from klein9b.remote.lane import Options  # noqa: E402

PACE = 5.0
AT_ONCE = 8
PATIENT = Timeouts()


def main():
    """Rows of (what, jobs, measures by name)."""
    return [flood(jobs=100), flood(jobs=200), *cadence(jobs=48)]


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
        return (
            "flood",
            jobs,
            {
                "seconds": took,
                "in flight, most": watch.in_flight,
                "charges": len(fake.ledger),
                "submits": fake.submits,
                "peak MiB over start": watch.peak_mib,
                "open files left": watch.files_left,
            },
        )


async def nodes(lane, jobs):
    """Each job as a node of its own, whose picture the graph has used up when the next comes."""

    async def node(seed):
        await lane.run([lanes.request(seed=seed)], [], Options(timeout_s=3300))

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
    """Polls per job and seconds between a job's end and the request for its result."""
    behaviours = latencies(jobs)
    return [("ours", jobs, ours(behaviours)), ("sdk 1 Hz", jobs, official(behaviours))]


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
        asyncio.run(lane.run(requests, [], Options(timeout_s=3300)))
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
    polls, results = fake.requests_to("status"), fake.requests_to("result")
    first = {}
    for seen in results:
        first.setdefault(seen.path.rsplit("/", 1)[1], seen.at)
    late = [(first[job.request_id] - job.finished) * PACE for job in fake.jobs]
    return {
        "polls per job": len(polls) / len(fake.jobs),
        "mean added s": statistics.mean(late),
        "worst added s": max(late),
        "charges": len(fake.ledger),
    }


def memory_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


if __name__ == "__main__":
    for what, jobs, found in main():
        print(f"{what:9} {jobs:4} jobs  " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()))
