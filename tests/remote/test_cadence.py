"""The schedule alone, in no time: how late an end is seen, after how many looks, for jobs of which much or nothing is
known. The same over the wire, beside the official SDK, is in `tests/bench/bench_remote.py`."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from klein9b.remote.cadence import FIRST_ETA_S, KEPT, Cadence, Durations

LENGTHS_S = (1.0, 3.0, 8.0, 13.6, 30.0, 60.0)
SUBMIT_AND_RESULT = 2  # the other two requests of a job
JOBS = 200
quick = settings(deadline=None, max_examples=100)
seconds_of_a_job = st.floats(0.0, 5000.0)


def test_the_expected_time_starts_at_the_published_mean_and_follows_the_jobs():
    assert Durations().expected_s == FIRST_ETA_S
    assert Durations([6.0]).expected_s == 6.0
    assert Durations([6.0] * 30 + [40.0] * 10).expected_s == 40.0


def test_one_cold_boot_does_not_spoil_it():
    assert Durations([300.0]).expected_s == FIRST_ETA_S
    assert Durations([12.0, 12.0, 300.0, 12.0]).expected_s == 12.0


def test_a_job_of_an_earlier_run_is_looked_at_at_once():
    assert Cadence(Durations(), Random(0)).wait(200.0) == 0.0


def test_a_known_job_is_first_looked_at_shortly_before_its_end():
    """After a look or none for a service that has become faster."""
    durations = Durations([13.6] * KEPT)
    assert durations.looks_by(12.0) < 1.5 < 3.0 < durations.looks_by(14.5)


def test_jobs_that_were_sent_together_do_not_march_in_step():
    first = {round(Cadence(Durations(), Random(seed)).wait(0.0), 1) for seed in range(40)}
    assert len(first) >= 6


@quick
@given(st.lists(seconds_of_a_job, max_size=30), st.floats(0.0, 5000.0))
def test_looks_and_ages_are_each_others_inverse(known, elapsed):
    durations = Durations(known)
    age = durations.age_of(durations.looks_by(elapsed))
    assert math.isclose(durations.looks_by(age), durations.looks_by(elapsed), rel_tol=1e-6, abs_tol=1e-6)


class Followed(RuleBasedStateMachine):
    """Jobs that begin, end and teach in any order, all over one `Durations`."""

    jobs = Bundle("jobs")

    def __init__(self):
        super().__init__()
        self.rng, self.durations, self.taught = Random(0), Durations(), []

    @rule(target=jobs, age=st.floats(0.0, 4000.0), length=st.floats(0.05, 3300.0))
    def begin(self, age, length):
        return {"cadence": Cadence(self.durations, self.rng), "age": age, "length": length, "looks": 0}

    @rule(job=jobs)
    def look(self, job):
        wait = job["cadence"].wait(job["age"])
        assert (Cadence.SHORTEST_S if job["looks"] else 0.0) <= wait <= Cadence.LONGEST_S
        job["age"], job["looks"] = job["age"] + wait, job["looks"] + 1

    @rule(job=jobs)
    def follow_to_its_end(self, job):
        before = job["looks"]
        while not job["looks"] or job["age"] < job["length"]:
            self.look(job)
        assert job["looks"] - before <= 700, "a job of an hour costs a look every five seconds at most"

    @rule(seconds=seconds_of_a_job, times=st.integers(1, 20))
    def teach(self, seconds, times):
        for _ in range(times):
            self.durations.learn(seconds)
        self.taught += [seconds] * times

    @rule(seconds=st.floats(1.0, 60.0))
    def settle_on_a_length(self, seconds):
        """After as many jobs of one length as are kept, nothing before them is remembered."""
        self.teach(seconds, KEPT)
        assert self.durations.looks_by(4000.0) == Durations([seconds] * KEPT).looks_by(4000.0)

    @precondition(lambda self: self.taught)
    @invariant()
    def what_is_expected_was_seen_or_published(self):
        known = [max(seconds, 0.05) for seconds in self.taught]
        assert min(FIRST_ETA_S, *known) <= self.durations.expected_s <= max(FIRST_ETA_S, *known)

    @invariant()
    def more_age_is_never_fewer_looks(self):
        looks = [self.durations.looks_by(age) for age in (0.0, 1.0, 5.0, 20.0, 300.0, 4000.0)]
        assert looks == sorted(looks) and looks[0] < looks[-1] < math.inf


Followed.TestCase.settings = settings(deadline=None, max_examples=15, stateful_step_count=20)
TestFollowed = Followed.TestCase


# --- how late, after how many requests


def steady(length_s, part):
    """Jobs of one length: making varies by this part of it (one deviation), the queue takes a twentieth on average."""

    def draw(rng):
        making, queue = length_s * 0.95, length_s * 0.05
        return making * math.exp(part * rng.gauss(0.0, 1.0)) + rng.expovariate(1.0 / queue)

    return draw


def watched(draw, known=KEPT, jobs=JOBS, learns=True):
    """Mean lateness in seconds and requests a job, from that many known jobs on."""
    rng = Random(1)
    durations = Durations([draw(rng) for _ in range(known)])
    late, looks = [], 0
    for _ in range(jobs):
        cadence, now, length = Cadence(durations, rng), 0.0, draw(rng)
        while not now or now < length:
            now += cadence.wait(now)
            looks += 1
        late.append(now - length)
        if learns:
            durations.learn(length)
    return sum(late) / jobs, looks / jobs + SUBMIT_AND_RESULT


@pytest.mark.parametrize("part", [0.05, 0.10])
def test_the_bars_for_jobs_of_one_length(part):
    """At most 1 s and 25 % late at each length, at most 8 requests a job on average over the lengths."""
    seen = {length: watched(steady(length, part)) for length in LENGTHS_S}
    for length, (late, requests) in seen.items():
        print(f"{length:5.1f} s, varying by {part:.0%}: {late:.2f} s late, {requests:.1f} requests")
        assert late <= min(1.0, 0.25 * length), length
    assert np.mean([requests for _, requests in seen.values()]) <= 8.0


def test_where_jobs_vary_by_a_fourth_the_longest_are_seen_later_and_why():
    """No schedule does better: lateness times looks is at least K^2 / 2, half of which a minute's jobs come near."""
    seen = {length: watched(steady(length, 0.25)) for length in LENGTHS_S}
    assert all(late <= min(1.0, 0.25 * length) for length, (late, _) in seen.items() if length <= 30.0)
    late, requests = seen[60.0]
    print({length: f"{late:.2f} s late, {requests:.1f} requests" for length, (late, requests) in seen.items()})
    assert 1.0 < late <= 1.8
    looks = requests - SUBMIT_AND_RESULT
    assert late >= bound_s(steady(60.0, 0.25)) / looks
    assert np.mean([requests for _, requests in seen.values()]) <= 9.0


def bound_s(draw):
    """Half the square of the integral of sqrt(f S) of these jobs: the least lateness times looks that there is."""
    rng = Random(2)
    lengths = np.sort([draw(rng) for _ in range(40000)])
    edges = np.linspace(lengths[0], lengths[-1], 60)
    density, _ = np.histogram(lengths, edges, density=True)
    longer = 1.0 - np.searchsorted(lengths, (edges[1:] + edges[:-1]) / 2) / len(lengths)
    return (np.sqrt(density * longer) @ np.diff(edges)) ** 2 / 2


@pytest.mark.parametrize(
    ("length", "late_s", "requests"),
    [(1.0, 0.7, 4), (3.0, 1.0, 5.5), (8.0, 0.8, 10), (13.6, 0.8, 15), (30.0, 1.0, 27), (60.0, 1.3, 45)],
)
def test_what_a_first_job_costs(length, late_s, requests):
    """Of which nothing is known but the published mean. A job of 3 s was seen after 8.5 s once."""
    late, asked = watched(steady(length, 0.05), known=0, learns=False)
    print(f"a first job of {length} s: {late:.2f} s late, {asked:.1f} requests")
    assert late <= late_s
    assert asked <= requests


def test_jobs_of_every_length_mixed_take_more_requests_and_no_schedule_would_not():
    """Nothing can be learnt but that they are mixed."""

    def mixed(rng):
        return math.exp(rng.uniform(0.0, math.log(60.0)))

    late, requests = watched(mixed)
    assert late <= 1.0
    assert requests <= 13.5
    assert bound_s(mixed) / (8 - SUBMIT_AND_RESULT) > 1.0


def test_two_kinds_of_jobs_on_one_account():
    """Such as four steps and twenty in turn."""
    late, requests = watched(lambda rng: steady(rng.choice([3.0, 13.6]), 0.05)(rng))
    assert late <= 0.6
    assert requests <= 10.5


@pytest.mark.parametrize(("before", "after"), [(13.6, 4.0), (13.6, 30.0), (4.0, 13.6)])
def test_a_service_that_changes_is_caught_up_with_within_five_jobs(before, after):
    rng = Random(3)
    durations = Durations([steady(before, 0.05)(rng) for _ in range(KEPT)])
    for _ in range(5):
        durations.learn(steady(after, 0.05)(rng))
    late = []
    for _ in range(100):
        cadence, now, length = Cadence(durations, rng), 0.0, steady(after, 0.05)(rng)
        while now < length:
            now += cadence.wait(now)
        late.append(now - length)
    assert np.mean(late) <= 1.0


def test_no_even_spacing_and_no_growing_one_is_as_good_for_as_many_looks():
    """On what the plan believes of a first job: lateness in units of what is allowed."""
    rng = np.random.default_rng(4)
    lengths = 10.0 * np.exp(0.5 * rng.logistic(size=4000))
    allowed = np.maximum(np.minimum(0.25 * lengths, 1.0), lengths / 60.0)
    durations = Durations()
    ages = [durations.age_of(look + 0.75) for look in range(500)]
    ours, looks = cost(ages, lengths, allowed)
    even = [np.arange(1, 4000) * gap for gap in np.geomspace(0.1, 10.0, 60)]
    assert ours < 0.95 * least(even, looks, lengths, allowed)
    growing = [first * factor ** np.arange(200) for first in (0.5, 1.0, 2.0) for factor in np.linspace(1.05, 2.0, 40)]
    assert ours < 0.95 * least(growing, looks, lengths, allowed)


def cost(ages, lengths, allowed):
    ages = np.asarray([age for age in ages if age < 1e5])
    kept = lengths < ages[-1]
    place = np.searchsorted(ages, lengths[kept])
    return np.mean((ages[place] - lengths[kept]) / allowed[kept]), np.mean(place + 1)


def least(schedules, looks, lengths, allowed):
    """The lateness of the best of those that take no more looks."""
    return min(late for late, taken in (cost(ages, lengths, allowed) for ages in schedules) if taken <= looks)
