import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.remote.cadence import FIRST_ETA_S, Cadence, Eta

quick = settings(deadline=None, max_examples=300)


def test_the_eta_starts_at_the_published_mean_and_follows_the_jobs():
    assert Eta().seconds == FIRST_ETA_S
    assert Eta([6.0] * 30).seconds == pytest.approx(6.0, abs=0.1)
    assert Eta([40.0] * 60).seconds == pytest.approx(40.0, abs=0.5)


def test_one_cold_boot_does_not_spoil_the_eta():
    assert Eta([300.0]).seconds == pytest.approx(1.2 * FIRST_ETA_S)
    assert Eta([-5.0]).seconds == pytest.approx(0.8 * FIRST_ETA_S)


def test_the_first_look_waits_for_three_fifths_of_the_eta():
    assert Cadence(Eta(), Random(0)).wait(0.0) == pytest.approx(0.6 * 13.6)
    assert Cadence(Eta(), Random(0)).wait(2.0) == pytest.approx(0.6 * 13.6 - 2.0)


def test_a_resumed_job_is_looked_at_at_once_and_then_as_any_other():
    cadence = Cadence(Eta(), Random(0), resumed=True)
    assert cadence.wait(200.0) == 0.0
    assert 8.5 <= cadence.wait(200.0) <= 11.5


@quick
@given(st.floats(0, 5000), st.integers())
def test_later_looks_grow_with_the_age_and_halve_near_the_finish(elapsed, seed):
    cadence = Cadence(Eta(), Random(seed), resumed=True)
    cadence.wait(elapsed)
    plain = min(max(0.15 * elapsed, 1.0), 10.0)
    near = 0.5 if 0.75 * 13.6 <= elapsed <= 1.35 * 13.6 else 1.0
    assert plain * near * 0.85 <= cadence.wait(elapsed) <= plain * near * 1.15


def test_looks_are_spread_so_that_jobs_do_not_march_in_step():
    cadence = Cadence(Eta(), Random(1), resumed=True)
    cadence.wait(100.0)
    waits = [cadence.wait(100.0) for _ in range(1000)]
    assert min(waits) < 8.6
    assert max(waits) > 11.4


def latencies(rng, count):
    """A short queue, a steady worker and now and then a cold boot, near the published means."""
    for _ in range(count):
        boot = rng.uniform(40, 180) if rng.random() < 0.02 else 0.0
        yield rng.expovariate(1 / 1.0) + rng.lognormvariate(math.log(12.3), 0.2) + boot


def watch(durations, rng):
    """Polls per job, seconds by which each was seen late."""
    eta, polls, late = Eta(), 0, []
    for duration in durations:
        cadence, now = Cadence(eta, rng), 0.0
        while now < duration or not now:
            now += cadence.wait(now)
            polls += 1
        late.append(now - duration)
        eta.learn(duration)
    return polls / len(late), late


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_polls_per_job_and_added_latency_at_a_realistic_service(speed):
    """The bars: 8 polls a job, 1.5 s late on average."""
    rng = Random(7)
    durations = [speed * d for d in latencies(rng, 4000)]
    polls, late = watch(durations, rng)
    print(f"speed {speed}: mean {sum(durations) / 4000:.1f} s, {polls:.2f} polls, late {sum(late) / 4000:.2f} s")
    assert polls <= 8
    assert sum(late) / len(late) <= 1.5
