import time
from datetime import datetime, timezone
from email.utils import format_datetime
from random import Random

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from klein9b.remote.retry import backoff, retry_hint

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
