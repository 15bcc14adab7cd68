"""Body shapes and status codes, and that nothing a server says can break the reader."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.remote import protocol
from klein9b.remote.dates import moment
from klein9b.remote.explain import meaning
from klein9b.remote.lenient_json import amount
from klein9b.remote.protocol import (
    Accepted,
    Credits,
    Rejection,
    Reply,
    Result,
    Retry,
    Status,
    Unknown,
    words_of,
)

FUZZ = settings(deadline=None, max_examples=200)
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 40
URL = "https://images.segmind.com/generations/a.png"
ID = "2c7f59ea-13f1-402c-9353-915a2b5a2124"


def reply(value, status=200, **rest):
    return Reply(status, value if isinstance(value, bytes) else json.dumps(value).encode(), **rest)


SHAPES = [
    {"output": URL},
    {"images": [{"url": URL}], "output": "https://images.segmind.com/other.png"},
    {"images": [URL]},
    {"output": [URL]},
    {"output": {"image_url": URL}},
    {"output": {"url": URL}},
    {"output": json.dumps({"images": [{"url": URL}]})},
    {"image": URL},
]
INLINE = [
    {"output": base64.b64encode(PNG).decode()},
    {"output": "data:image/png;base64," + base64.b64encode(PNG).decode()},
    {"images": [base64.b64encode(PNG).decode()]},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_of_a_result_with_an_address(shape):
    got = protocol.read_result(reply({"status": "COMPLETED", "metrics": {"cost": "0.04"}, **shape}))
    assert isinstance(got, Result) and got.source.url == URL and got.metrics.cost_usd == 0.04


@pytest.mark.parametrize("shape", INLINE, ids=["raw", "data", "list"])
def test_every_shape_of_a_result_with_the_picture_inside(shape):
    got = protocol.read_result(reply({"status": "COMPLETED", **shape}))
    assert isinstance(got, Result) and got.source.data == PNG
    assert protocol.read_result(reply(PNG)).source.data == PNG


@pytest.mark.parametrize("body", [{}, [], b"", b"{", {"status": "COMPLETED"}, {"output": ""}])
def test_an_empty_result_is_asked_for_again(body):
    assert isinstance(protocol.read_result(reply(body)), Retry)


def test_failed_is_a_status_whatever_its_code():
    body = {"status": "FAILED", "error": "moderation", "metrics": {"total_time": 0.2}}
    for read in (protocol.read_status, protocol.read_result):
        got = read(reply(body, 422))
        assert (got.state, got.error, got.metrics.cost_usd) == ("FAILED", "moderation", None)


def test_a_422_without_a_state_is_a_refusal_that_keeps_its_detail():
    got = protocol.read_status(reply({"detail": [{"loc": ["body", "cfg"], "msg": "too big"}]}, 422))
    assert got == Rejection(422, "body.cfg: too big")


@pytest.mark.parametrize("word", ["QUEUED", "queued", " Processing ", "WARMING"])
def test_states_are_upper_case(word):
    assert protocol.read_status(reply({"status": word})).state == word.strip().upper()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((code, Rejection) for code in (400, 401, 402, 403, 404, 405, 406, 409, 410, 413, 422, 429, 451)),
        *((code, Unknown) for code in (100, 204, 301, 302, 307, 408, 425, 500, 502, 503, 504, 599)),
    ],
)
def test_what_a_submits_code_means_for_money(status, kind):
    assert isinstance(protocol.read_submit(reply({"error": "x"}, status)), kind)


@pytest.mark.parametrize("code", [200, 201, 202])
def test_an_accepted_submit(code):
    assert protocol.read_submit(reply({"request_id": ID, "status_url": "https://evil"}, code)) == Accepted(ID)


@pytest.mark.parametrize("bad", ["../../x", "short", "x" * 65, "a b c d e f g", 5, None, "idididid\n"])
def test_a_request_id_that_could_be_a_path_is_no_request_id(bad):
    assert isinstance(protocol.read_submit(reply({"request_id": bad})), Unknown)
    with pytest.raises((ValueError, TypeError)):
        protocol.status_path(bad)


@pytest.mark.parametrize("name", ["file_urls", "urls", "url"])
def test_uploads_keep_their_number_and_order(name):
    urls = [URL + "?1", URL + "?2"]
    assert protocol.read_upload(reply({name: urls, "message": "ok"}), 2) == tuple(urls)
    assert isinstance(protocol.read_upload(reply({name: urls}), 3), Retry)
    assert protocol.read_upload(reply({name: URL}), 1) == (URL,)


def test_credits():
    assert protocol.read_credits(reply({"credits": 0.0, "free-credits": 0.0184})) == Credits(0.0, 0.0184)
    assert protocol.read_credits(reply({"error": "No credits found for the user"}, 404)) == Credits(0.0, 0.0)
    assert isinstance(protocol.read_credits(reply({"error": "nope"}, 404)), Rejection)
    assert isinstance(protocol.read_credits(reply({"credits": "NaN"})), Retry)


def test_history_rows():
    row = {
        "request_id": ID,
        "model_status": "completed",
        "request_body": "{'prompt': 'fox', 'go_fast': True}",
        "credits_deduction": 0.0402,
        "generation_url": URL,
        "model_created": "2026-09-01T10:00:00.123Z",
    }
    (got,) = protocol.read_history(reply({"data": [row, {"request_id": "../x"}, 7]}))
    assert (got.state, got.url, got.cost_usd, got.created_at) == ("COMPLETED", URL, 0.0402, 1788256800.123)
    assert protocol.read_record(reply(row)) == protocol.read_record(reply({"data": row})) == got


@pytest.mark.parametrize(
    ("status", "words", "todo"),
    [
        (401, "Missing Authorization or x-api-key in header", "proxy"),
        (401, "Unauthorized. API key is invalid", "SEGMIND_API_KEY"),
        (406, "Insufficient credits", "Add credits"),
        (406, "Invalid content type", "proxy"),
        (406, "Team spend cap reached", "limit"),
        (406, "Invalid value for parameter 'sampler'", "input"),
        (405, "Method Not Allowed", "SEGMIND_BASE_URL"),
        (404, "Model not found", "SEGMIND_BASE_URL"),
        (410, "gone", "retired"),
        (413, "too large", "smaller"),
    ],
)
def test_one_code_several_meanings(status, words, todo):
    what, advice = meaning(status, words)
    assert words in what and todo in advice


def test_words_of_markup_text_and_nothing():
    page = b"<html><head><title>405 Method Not Allowed</title></head><body>x</body></html>"
    assert words_of(Reply(405, page)) == "405 Method Not Allowed"
    assert words_of(Reply(406, b"Invalid content type")) == "Invalid content type"
    assert words_of(Reply(500, b"")) == "no explanation"
    assert words_of(reply({"error": "a", "error_description": "b\nc"}, 401)) == "a / b c"


NAMES = [
    *("status", "error", "detail", "message", "msg", "loc", "metrics", "cost", "credits", "file_urls"),
    *("output", "images", "image", "url", "data", "request_id", "request_body", "model_created"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())
READERS = [
    protocol.read_submit,
    protocol.read_status,
    protocol.read_result,
    protocol.read_credits,
    protocol.read_history,
    protocol.read_record,
    protocol.read_download,
    lambda it: protocol.read_upload(it, 1),
]


@FUZZ
@given(BODIES, st.sampled_from([200, 204, 302, 400, 404, 406, 422, 429, 500, 502]), st.sampled_from(READERS))
def test_no_reply_breaks_a_reader(body, status, read):
    got = read(Reply(status, body))
    assert not isinstance(got, Accepted) or status == 200
    assert "\n" not in getattr(got, "words", "") + getattr(got, "why", "")
    assert len(words_of(Reply(status, body))) <= 400


@FUZZ
@given(JSON)
def test_amounts_and_moments_are_finite_or_unknown(value):
    assert amount(value) is None or 0 <= amount(value) < float("inf")
    assert moment(value) is None or moment(value) == moment(value)


@FUZZ
@given(st.binary(), st.integers(0, 400))
def test_a_cut_result_is_never_an_empty_success(tail, keep):
    whole = json.dumps({"status": "COMPLETED", "metrics": {"cost": 0.04}, "output": URL}).encode()
    got = protocol.read_result(Reply(200, whole[: min(keep, len(whole) - 1)]))
    assert isinstance(got, Retry)


def test_status_is_a_value():
    assert protocol.read_status(reply({"status": "QUEUED"})) == Status("QUEUED")


def test_an_error_nested_without_end_is_no_explanation():
    deep = b'{"status": "PROCESSING", "error": ' + b"[" * 940 + b'"x"' + b"]" * 940 + b"}"
    assert protocol.read_status(Reply(200, deep)) == Status("PROCESSING")
