"""Two hundred jobs at once: all complete, each charged once, nothing piles up."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path

import httpx
import pytest

from .faults import Fault
from .jobs import Behaviour
from .server import FakeSegmind
from .settings import SLUG, Settings

JOBS = 200
# httpcore looks at every pooled connection for every request: 200 of them cost more than the service does.
CONNECTIONS = 16
WARM_UP = 20
# 200 raw pictures are 39 MB; anything kept per job shows, the working set of a few threads does not.
GROWTH_BYTES = 24 * 2**20
SPARE_DESCRIPTORS = 8
PATIENCE_SECONDS = 10.0


async def one_job(http: httpx.AsyncClient, fake: FakeSegmind, seed: int) -> bytes:
    submitted = (await http.post(f"{fake.api_url}/v2/{SLUG}", json={"prompt": "a cup", "seed": seed})).json()
    while (await http.get(submitted["status_url"])).json()["status"] != "COMPLETED":
        await asyncio.sleep(0.1)
    result = (await http.get(submitted["response_url"])).json()
    return (await http.get(result["output"], headers={"x-api-key": ""})).content


async def many_jobs(fake: FakeSegmind, seeds: range) -> list[bytes]:
    limits = httpx.Limits(max_connections=CONNECTIONS)
    headers = {"x-api-key": fake.key}
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=60) as http:
        return await asyncio.gather(*(one_job(http, fake, seed) for seed in seeds))


def descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


@pytest.mark.skipif(not descriptors(), reason="counts descriptors through /proc")
def test_a_stall_ends_with_its_client() -> None:
    with FakeSegmind() as fake, httpx.Client(base_url=fake.api_url, timeout=0.5) as http:
        fake.script("credits", Fault.stall_headers(), forever=True)
        opened = descriptors()
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                http.get("/v1/get-user-credits")
        until = time.monotonic() + PATIENCE_SECONDS
        while descriptors() > opened and time.monotonic() < until:
            time.sleep(0.05)
        assert descriptors() <= opened


def test_two_hundred_jobs_at_once() -> None:
    opened = descriptors()
    behaviour = Behaviour(queue_seconds=0.1, run_seconds=0.2)
    with FakeSegmind(behaviour, Settings(credits=1000.0, pixels=256 * 256)) as fake:
        pictures = asyncio.run(many_jobs(fake, range(WARM_UP)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pictures += asyncio.run(many_jobs(fake, range(WARM_UP, WARM_UP + JOBS)))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert len(set(pictures)) == len(fake.ledger) == WARM_UP + JOBS
        assert max(fake.charges_by_body.values()) == 1 and fake.key_leaks == ()
    assert grown < GROWTH_BYTES
    assert descriptors() < opened + SPARE_DESCRIPTORS
