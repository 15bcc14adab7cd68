"""Every date that a server may write, read in the same way by every Python."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.remote.dates import day, moment

NOON = datetime(2026, 8, 1, 12, 0, 0, tzinfo=timezone.utc)
SECONDS = NOON.timestamp()
ZONES = {"": 0, "Z": 0, "z": 0, " UTC": 0, "+00:00": 0, "+0200": 2, "+02": 2, "-05:30": -5.5, " -0530": -5.5}
quick = settings(deadline=None, max_examples=300)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("fraction", ["", *(f".{'123456789'[:count]}" for count in range(1, 10)), ",5"])
def test_iso_8601_with_any_number_of_decimals_in_any_zone(fraction, zone):
    text = f"2026-08-01T12:00:00{fraction}{zone}"
    expected = SECONDS + float(f"0{fraction.replace(',', '.')}" if fraction else 0) - 3600 * ZONES[zone]
    assert moment(text) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("text", ["2026-08-01 12:00", "2026-08-01T12:00Z", " 2026-08-01 12:00:00 "])
def test_seconds_and_the_t_may_be_missing(text):
    assert moment(text) == SECONDS


def test_a_day_alone_begins_at_midnight():
    assert moment("2026-08-01") == SECONDS - 43200


@pytest.mark.parametrize("value", [SECONDS, int(SECONDS), SECONDS * 1000, str(int(SECONDS)), f"{SECONDS * 1000:.0f}"])
def test_epoch_seconds_and_milliseconds_as_number_and_as_text(value):
    assert moment(value) == SECONDS


def test_an_http_date():
    assert moment(format_datetime(NOON, usegmt=True)) == SECONDS
    assert moment(format_datetime(NOON.astimezone(timezone(timedelta(hours=-3))))) == SECONDS


@pytest.mark.parametrize("value", [None, True, [], {}, "", "soon", "-1", -1.0, float("nan"), "\u0662026-08-01"])
def test_what_has_no_date_in_it_is_none(value):
    assert moment(value) is None


@pytest.mark.parametrize(
    "value", ["2026-13-01", *(f"2026-08-01T{t}" for t in ("25:00", "12", "12:00:00.", "12:00+99:99"))]
)
def test_a_date_that_does_not_exist_is_none(value):
    assert moment(value) is None


@quick
@given(st.text(max_size=40) | st.from_regex(r"[-+0-9.eE:TZ ]{0,30}", fullmatch=True) | st.floats() | st.integers())
def test_nothing_breaks_the_reader(value):
    found = moment(value)
    assert found is None or found == found


@quick
@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_a_day_is_the_date_of_its_moment(when):
    assert day(when.replace(tzinfo=timezone.utc).timestamp()) == when.strftime("%Y-%m-%d")
    assert moment(when.isoformat()) == pytest.approx(when.replace(tzinfo=timezone.utc).timestamp(), abs=1e-4)


@pytest.mark.parametrize(("when", "expected"), [(-1e12, "1970-01-01"), (1e15, "9999-12-31")])
def test_a_moment_that_has_no_date_has_the_nearest(when, expected):
    assert day(when) == expected
