"""kill -9 at every journal transition, and processes that share a folder: one charge, and the picture."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lanes import a_lane, request, run

from fake_segmind import Behaviour
from klein9b.remote.errors import OutcomeUnknown
from klein9b.remote.journal import Journal

TESTS = Path(__file__).resolve().parents[1]
TRANSITIONS = ["claim", "take", "submitting", "accepted", "completed", "settle", "kept"]


def start(fake, folder, name, die=None):
    result = folder / f"{name}.json"
    roles = {role: getattr(fake, role) for role in ("key", "api_url", "storage_url", "account_url")}
    spec = folder / f"{name}.spec"
    spec.write_text(json.dumps({**roles, "directory": str(folder / "d"), "result": str(result), "die": die}))
    child = subprocess.Popen([sys.executable, "-m", "remote_child", str(spec)], cwd=TESTS)
    return child, result


def outcome(child, result):
    child.wait(60)
    return json.loads(result.read_text()) if result.exists() else None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_kill_at_any_transition_costs_one_charge_and_delivers(fake, tmp_path, when, transition):
    child, result = start(fake, tmp_path, "first", die=[when, transition])
    assert outcome(child, result) is None and child.returncode == -signal.SIGKILL
    never_sent = (when, transition) == ("after", "submitting")
    with a_lane(fake, tmp_path / "d") as lane:
        if never_sent:  # on disk and not on the wire: nobody can tell from here, so it is not sent either
            with pytest.raises(OutcomeUnknown):
                run(lane, request())
        else:
            assert run(lane, request())[0].decoded.width == 32
    assert len(fake.ledger) == fake.submits == (0 if never_sent else 1)
    files = [path for path in (tmp_path / "d").rglob("*") if path.is_file()]
    assert fake.key.encode() not in b"".join(path.read_bytes() for path in files)


def test_two_processes_share_one_job(fake, tmp_path):
    fake.behaviour = Behaviour(run_seconds=1.0)
    children = [start(fake, tmp_path, name) for name in ("a", "b", "c")]
    outcomes = [outcome(*child) for child in children]
    assert len({found.get("sha256", str(found)) for found in outcomes}) == 1, outcomes
    assert len(fake.ledger) == fake.submits == 1


def test_who_waits_for_a_process_that_dies_takes_its_job_over(fake, tmp_path):
    fake.behaviour = Behaviour(run_seconds=0.5)
    first, result = start(fake, tmp_path, "first", die=["before", "completed"])
    while not fake.submits:
        time.sleep(0.01)
    second = start(fake, tmp_path, "second")
    assert outcome(first, result) is None
    assert "sha256" in outcome(*second)
    assert len(fake.ledger) == fake.submits == 1


def test_a_crash_and_then_a_day_off(fake, tmp_path):
    child, result = start(fake, tmp_path, "first", die=["after", "accepted"])
    outcome(child, result)
    fake.clock.advance(86400)
    with contextlib.closing(Journal(tmp_path / "d" / "jobs.sqlite")) as journal, journal._write() as db:
        db.execute("UPDATE jobs SET submitted_at = submitted_at - 86400")
    with a_lane(fake, tmp_path / "d") as lane:
        assert run(lane, request())[0].receipt["reused"]
    assert len(fake.ledger) == fake.submits == 1
