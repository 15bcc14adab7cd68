"""The worker outlives the loops that use it, and does not outlive the program."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from klein9b.remote.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


async def nap(seconds, value=None):
    await asyncio.sleep(seconds)
    return value


def test_it_works_for_any_thread_and_any_loop(worker):
    async def from_a_loop(value):
        return await asyncio.wrap_future(worker.submit(nap(0, value)))

    assert worker.submit(nap(0, 1)).result(5) == 1
    assert [asyncio.run(from_a_loop(n)) for n in (2, 3)] == [2, 3]


def test_it_goes_on_when_the_callers_loop_dies(worker):
    done = threading.Event()

    async def long():
        await asyncio.sleep(0.1)
        done.set()

    async def caller():
        worker.submit(long())

    asyncio.run(caller())
    assert done.wait(5)


def test_it_runs_while_the_callers_thread_is_busy(worker):
    future = worker.submit(nap(0.05, "done"))
    time.sleep(0.3)
    assert future.done()


def test_errors_come_back(worker):
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        worker.submit(fail()).result(5)


def test_close_cancels_and_a_later_submit_starts_afresh(worker):
    cancelled = threading.Event()

    async def forever():
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    worker.submit(forever())
    worker.submit(nap(0)).result(5)
    began = time.monotonic()
    worker.close()
    assert cancelled.wait(1) and time.monotonic() - began < 2.5
    assert worker.submit(nap(0, 4)).result(5) == 4


PROGRAM = """
import sys, types, threading, asyncio
pack = types.ModuleType("klein9b"); pack.__path__ = [sys.argv[1]]; sys.modules["klein9b"] = pack
before = threading.active_count()
import klein9b.remote.session as session
assert threading.active_count() == before, "a thread was started by an import"
assert "torch" not in sys.modules and "comfy" not in sys.modules
async def stubborn():
    while True:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            pass
session._WORKER.submit(stubborn())
"""


def test_nothing_starts_at_import_and_the_program_can_end():
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT)], check=True, timeout=30)
    assert time.monotonic() - began < 15
