import math
import time
from datetime import datetime, timezone
from email.utils import format_datetime
from random import Random

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from klein9b.remote.cadence import FIRST_ETA_S, Cadence, Eta, backoff, retry_hint

NOW = datetime(2026, 8, 1, 12, 0, 0, tzinfo=timezone.utc)
RESET = "x-rate-limit-reset-at-utc"
quick = settings(deadline=None, max_examples=300)


def hint(**headers):
    return retry_hint({name.replace("_", "-"): text for name, text in headers.items()}, NOW.timestamp())


def later(seconds):
    return datetime.fromtimestamp(NOW.timestamp() + seconds, timezone.utc)


# --- what the server asks for


def test_nothing_asked_is_none():
    assert hint() is None
    assert hint(date=format_datetime(NOW, usegmt=True)) is None


@pytest.mark.parametrize(("text", "expected"), [("7", 7), (" 7 ", 7), ("2.5", 2.5), ("0", 0.5), ("3600", 120)])
def test_retry_after_in_seconds(text, expected):
    assert hint(retry_after=text) == expected


def test_retry_after_as_a_date_counts_from_the_replys_own_date():
    wrong = NOW.timestamp() + 9999
    headers = {
        "retry-after": format_datetime(later(30), usegmt=True),
        "date": format_datetime(NOW, usegmt=True),
    }
    assert retry_hint(headers, wrong) == 30
    assert retry_hint({"retry-after": headers["retry-after"]}, NOW.timestamp()) == 30


SPELLINGS = [
    lambda m: m.isoformat(),
    lambda m: m.isoformat().replace("+00:00", "Z"),
    lambda m: m.strftime("%Y-%m-%dT%H:%M:%S.1Z").replace(".1Z", ".0000000Z"),
    lambda m: m.strftime("%Y-%m-%dT%H:%M:%S.0Z"),
    lambda m: m.strftime("%Y-%m-%d %H:%M:%S"),
    lambda m: m.strftime("%Y-%m-%d %H:%M:%S UTC"),
    lambda m: m.astimezone(timezone.utc).isoformat(timespec="milliseconds"),
    lambda m: format_datetime(m, usegmt=True),
    lambda m: format_datetime(m),
    lambda m: str(int(m.timestamp())),
    lambda m: f"{m.timestamp():.3f}",
    lambda m: str(int(m.timestamp() * 1000)),
]


@pytest.mark.parametrize("spell", SPELLINGS)
def test_the_reset_header_in_every_spelling(spell):
    headers = httpx.Headers({RESET.upper(): spell(later(42)), "Date": format_datetime(NOW, usegmt=True)})
    assert retry_hint(headers, 0.0) == pytest.approx(42, abs=1e-3)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="cannot change the time zone here")
@pytest.mark.parametrize("spell", SPELLINGS)
def test_a_date_without_a_zone_is_utc_wherever_this_machine_is(spell, monkeypatch):
    monkeypatch.setenv("TZ", "XYZ+7")
    time.tzset()
    try:
        assert retry_hint({RESET: spell(later(42))}, NOW.timestamp()) == pytest.approx(42, abs=1e-3)
    finally:
        monkeypatch.undo()
        time.tzset()


@quick
@given(st.sampled_from(SPELLINGS), st.integers(-(10**6), 10**6))
def test_any_reset_is_clamped(spell, seconds):
    found = retry_hint({RESET: spell(later(seconds))}, NOW.timestamp())
    assert found == pytest.approx(min(max(seconds, 0.5), 120), abs=1e-3)


def test_the_longer_of_two_hints_counts():
    assert hint(retry_after="5", **{RESET: str(int(NOW.timestamp()) + 20)}) == 20
    assert hint(retry_after="50", **{RESET: str(int(NOW.timestamp()) + 20)}) == 50
    assert hint(retry_after="50", **{RESET: "soon"}) == 50


TEXTS = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[-+0-9.eE:TZ ]{0,30}", fullmatch=True),
    st.datetimes().map(str),
    st.sampled_from(["nan", "inf", "-1", "1e400", "9" * 400, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]),
)


@quick
@given(TEXTS, TEXTS, TEXTS, st.floats(0, 4e9))
@example("9" * 16, "", "9" * 16, 0.0)
@example("Sat, 01 Aug 2026 99999999999912:0:00 GMT", "", "", 0.0)  # OverflowError inside email.utils
def test_no_header_breaks_the_reader(after, reset, date, wall):
    found = retry_hint({"retry-after": after, RESET: reset, "date": date}, wall)
    assert found is None or 0.5 <= found <= 120


# --- backoff


@quick
@given(st.integers(0, 10**6), st.one_of(st.none(), st.floats(0.5, 120)), st.integers())
def test_backoff_is_full_jitter_above_the_servers_word(attempt, asked, seed):
    wait = backoff(attempt, asked, Random(seed))
    limit = min(20.0, 0.5 * 2 ** min(attempt, 40))
    assert (asked or 0.0) <= wait <= max(limit, asked or 0.0)


def test_backoff_spreads_over_the_whole_range():
    rng = Random(0)
    waits = [backoff(3, None, rng) for _ in range(4000)]
    assert min(waits) < 0.02
    assert 3.98 < max(waits) <= 4.0
    assert sum(waits) / len(waits) == pytest.approx(2.0, abs=0.1)  # five standard errors of a uniform mean


# --- watching a job


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
    cadence.resume()
    assert cadence.wait(200.0) == 0.0


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
