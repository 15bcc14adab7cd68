"""Rule (g): an interrupt frees the host at once, and what was paid is kept."""

import asyncio
import contextlib
import time

import numpy as np
import pytest
from lanes import a_lane, batch, make_lane, request, run, settled

from fake_segmind import Behaviour, Fault
from klein9b.remote import errors
from klein9b.remote.client import Client
from klein9b.remote.errors import NOTHING_SENT
from klein9b.remote.service import Terms, list_jobs
from klein9b.remote.worker import Worker

PHOTO = np.full((8, 8, 3), 0.5, np.float32)


def interrupt(lane, fake, when, *requests):
    """Cancels a run as soon as `when` is true; how long that took, and what was said."""
    noticed = []

    def cancelled():
        if not noticed and when():
            noticed.append(time.monotonic())
        return bool(noticed)

    with pytest.raises(errors.Interrupted) as said:
        asyncio.run(lane.run(list(requests), [], Terms(), cancelled=cancelled))
    return time.monotonic() - noticed[0], said.value


def test_an_interrupt_frees_the_caller_and_the_accepted_job_is_kept(fake, lane, tmp_path):
    fake.behaviour = Behaviour(run_seconds=0.5)
    took, said = interrupt(lane, fake, lambda: fake.jobs, request())
    assert took < 0.25 and "charged if it completes" in said.money
    settled(tmp_path, ["KEPT"])
    assert run(lane, request())[0].receipt["reused"]
    assert fake.submits == len(fake.ledger) == 1


def test_an_interrupt_before_the_submit_costs_nothing(fake, lane, tmp_path):
    fake.script("submit", Fault.rate_limited(600.0), forever=True)

    def refused_and_waiting():
        return fake.submits and [row.state for row in list_jobs(tmp_path)] == ["PLANNED"]

    took, said = interrupt(lane, fake, refused_and_waiting, request())
    assert took < 0.25 and said.money == NOTHING_SENT
    settled(tmp_path, [])
    assert not fake.jobs


def test_a_cancellation_that_is_lost_on_the_way_still_sends_nothing(fake, lane, tmp_path, monkeypatch):
    """Before Python 3.12 wait_for drops one that comes together with its answer, here that of the upload."""
    real, uploads = Client.upload, []

    async def upload(self, data_urls):
        uploads.append(data_urls)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.3)
        return await real(self, data_urls)

    monkeypatch.setattr(Client, "upload", upload)
    with pytest.raises(errors.Interrupted) as said:
        asyncio.run(lane.run([request()], [PHOTO], Terms(), cancelled=lambda: bool(uploads)))
    assert said.value.money == NOTHING_SENT
    settled(tmp_path, [])
    assert fake.requests_to("upload") and fake.submits == 0


def test_who_waits_for_a_place_and_leaves_is_never_submitted(fake, tmp_path):
    fake.behaviour = Behaviour(run_seconds=0.5)
    with a_lane(fake, tmp_path, in_flight=1) as lane:

        def one_is_accepted():
            return any(row.state == "ACCEPTED" for row in list_jobs(tmp_path))

        _, said = interrupt(lane, fake, one_is_accepted, *batch(3))
        assert said.what.count(fake.jobs[0].request_id) == 1
        settled(tmp_path, ["KEPT"])
        time.sleep(0.1)
    assert fake.submits == 1


def test_an_interrupt_in_the_middle_of_the_submit_says_that_it_may_be_charged(fake, lane, tmp_path):
    fake.script("submit", Fault.stall_headers(0.3))
    took, said = interrupt(lane, fake, lambda: fake.requests_to("submit"), request())
    assert took < 0.25 and "charged if it completes" in said.money
    settled(tmp_path, ["KEPT"])


def test_one_of_two_that_share_a_job_may_leave(fake, lane):
    fake.behaviour = Behaviour(run_seconds=0.3)

    async def both():
        stays = asyncio.ensure_future(lane.run([request()], [], Terms()))
        impatient = lane.run([request()], [], Terms(), cancelled=lambda: bool(fake.jobs))
        leaves = asyncio.ensure_future(impatient)
        return await asyncio.gather(stays, leaves, return_exceptions=True)

    stayed, left = asyncio.run(both())
    assert stayed[0].receipt["cost_usd"] and isinstance(left, errors.Interrupted)


def test_the_hosts_loop_may_die_while_a_job_runs(fake, lane, tmp_path):
    """A sibling node's failure ends asyncio.run, which cancels everything in that loop."""
    fake.behaviour = Behaviour(run_seconds=0.3)

    async def prompt():
        node = asyncio.ensure_future(lane.run([request()], [], Terms()))
        while not fake.jobs:
            await asyncio.sleep(0.01)
        raise KeyError(f"a sibling fails beside {node}")

    with pytest.raises(KeyError):
        asyncio.run(prompt())
    settled(tmp_path, ["KEPT"])


def test_the_end_of_the_worker_is_no_cancellation_error_for_the_host(fake, tmp_path):
    """A CancelledError that reaches ComfyUI's prompt thread ends it for good."""
    fake.behaviour = Behaviour(run_seconds=5.0)
    worker = Worker()
    lane = make_lane(fake, tmp_path, worker=worker)

    async def node():
        waiting = asyncio.ensure_future(lane.run([request()], [], Terms()))
        while not fake.jobs:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(worker.close)
        await waiting

    with pytest.raises(errors.Interrupted) as said:
        asyncio.run(node())
    assert "charged if it completes" in said.value.money
