"""The gateway's answers and its money, asked over plain HTTP."""

from __future__ import annotations

import base64
import email.utils
import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from .jobs import PRICE, Behaviour, Shape, body_key
from .routes import INVALID_KEY, MISSING_KEY
from .server import FakeSegmind
from .service import MODERATED_WORD
from .settings import SLUG

BODY: dict[str, Any] = {"prompt": "a red cup", "seed": 3}
DAY = 86400.0


@pytest.fixture
def http(fake: FakeSegmind) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fake.api_url, headers={"x-api-key": fake.key}, timeout=20) as client:
        yield client


def submit(http: httpx.Client, **changes: Any) -> httpx.Response:
    return http.post(f"/v2/{SLUG}", json={**BODY, **changes})


def final(http: httpx.Client, response: httpx.Response) -> httpx.Response:
    return http.get(f"/v2/requests/{response.json()['request_id']}")


def test_a_submit_is_free_and_completion_is_charged_once(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behaviour = Behaviour(queue_seconds=5, run_seconds=5)
    request_id = submit(http).json()["request_id"]
    for wanted in ("QUEUED", "PROCESSING"):
        assert http.get(f"/v2/requests/{request_id}/status").json()["status"] == wanted
        assert fake.ledger == ()
        fake.clock.advance(5)
    for _ in range(3):
        assert http.get(f"/v2/requests/{request_id}").json()["status"] == "COMPLETED"
    assert [(charge.request_id, charge.amount) for charge in fake.ledger] == [(request_id, PRICE)]
    assert fake.balance == pytest.approx(fake.settings.credits - PRICE)


def test_nobody_needs_to_listen_for_a_job_to_cost(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behaviour = Behaviour(run_seconds=60)
    submit(http), submit(http), submit(http, seed=4)
    fake.clock.advance(61)
    same, other = body_key(BODY), body_key({**BODY, "seed": 4})
    assert fake.charges_by_body == {same: 2, other: 1}


def test_charges_follow_completion_not_submission(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behave(Behaviour(run_seconds=50), Behaviour(run_seconds=10))
    late, early = (submit(http).json()["request_id"] for _ in range(2))
    fake.clock.advance(60)
    assert [charge.request_id for charge in fake.ledger] == [early, late]
    assert [charge.balance for charge in fake.ledger] == pytest.approx([10 - PRICE, 10 - 2 * PRICE])


def test_keys_have_the_published_form_and_differ(fake: FakeSegmind) -> None:
    prefix, digits = fake.key[:3], fake.key[3:]
    assert prefix == "SG_" and len(digits) == 16 and int(digits, 16) >= 0
    with FakeSegmind() as other:
        assert other.key != fake.key


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, MISSING_KEY),
        ({"x-api-key": "nonsense"}, INVALID_KEY),
        ({"authorization": "Bearer {key}"}, INVALID_KEY),
    ],
)
def test_only_the_key_header_opens(fake: FakeSegmind, headers: dict[str, str], message: str) -> None:
    sent = {name: value.format(key=fake.key) for name, value in headers.items()}
    for path in (f"/v2/{SLUG}", f"/v1/{SLUG}"):
        response = httpx.post(fake.api_url + path, json=BODY, headers=sent)
        assert (response.status_code, response.json()) == (401, {"error": message})
    assert httpx.get(f"{fake.api_url}/v1/get-user-credits", headers=sent).status_code == 401
    assert fake.jobs == ()


def test_the_account_host_speaks_another_401(fake: FakeSegmind) -> None:
    response = httpx.get(f"{fake.account_url}/inference-request/request-history")
    assert response.status_code == 401
    assert response.json()["error"] == "invalid_token" and response.json()["status_code"] == 401


def test_406_for_a_wrong_content_type_is_plain_text(http: httpx.Client) -> None:
    for headers in ({}, {"content-type": "text/plain"}):
        response = http.post(f"/v2/{SLUG}", content=b'{"prompt":"x"}', headers=headers)
        assert (response.status_code, response.text) == (406, "Invalid content type")


def test_406_for_money_names_balance_and_need(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.settings.credits = 0.01
    response = submit(http)
    assert response.status_code == 406
    assert "0.0100" in response.json()["error"] and "0.0402" in response.json()["error"]
    fake.settings.credits, fake.settings.spend_cap = 10.0, 0.05
    assert [submit(http).status_code for _ in range(2)] == [200, 406]


def test_406_for_a_value_outside_a_declared_set(http: httpx.Client) -> None:
    response = submit(http, sampler="dpm")
    assert response.status_code == 406 and "sampler" in response.json()["error"]


def test_other_bad_values_are_accepted_and_fail_for_free(fake: FakeSegmind, http: httpx.Client) -> None:
    bad: list[dict[str, Any]] = [
        {"steps": 101}, {"cfg": 0}, {"quality": "high"}, {"seed": 1.5}, {"prompt": ""}, {"prompt": None},
        {"image_urls": "not a list"}, {"image_urls": ["data:image/png;base64,AAAA"]},
        {"image_urls": [f"{fake.image_url}/assets/nowhere.png"]}, {"prompt": f"something {MODERATED_WORD}"},
    ]  # fmt: skip
    for changes in bad:
        accepted = submit(http, **changes)
        assert accepted.status_code == 200, changes
        response = final(http, accepted)
        assert response.status_code == 422, changes
        assert response.json()["status"] == "FAILED" and response.json()["error"], changes
    assert fake.ledger == ()


def test_references_come_only_from_its_own_store(fake: FakeSegmind, http: httpx.Client, tmp_path: Path) -> None:
    """A URL whose path climbs to a picture on this disk is not found, like any other missing file."""
    picture = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(picture)
    climb = "../" * 8
    for url in (f"{fake.image_url}/assets/{picture}", f"{fake.image_url}/assets/{climb}{picture}"):
        assert final(http, submit(http, image_urls=[url])).status_code == 422
    assert final(http, submit(http, image_urls=["https://example.com/a.png"])).status_code == 200


def test_lazy_and_strict_validation(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.settings.validation = "lazy"
    assert final(http, submit(http, sampler="dpm")).status_code == 422
    fake.settings.validation = "strict"
    response = submit(http, cfg=99)
    assert response.status_code == 422
    assert "status" not in response.json() and response.json()["detail"][0]["msg"]


def test_405_is_a_page_not_json(http: httpx.Client) -> None:
    response = http.get(f"/v2/{SLUG}")
    assert response.status_code == 405 and response.headers["content-type"].startswith("text/html")
    with pytest.raises(ValueError):
        response.json()


def test_models_that_cannot_be_called(fake: FakeSegmind, http: httpx.Client) -> None:
    assert http.post("/v2/no-such-model", json=BODY).status_code == 404
    fake.settings.retired = (SLUG,)
    assert submit(http).status_code == 410
    fake.settings.retired, fake.settings.forbidden = (), (SLUG,)
    assert submit(http).status_code == 403
    fake.settings.forbidden = ()
    for content in (b"[]", b"{", b""):
        response = http.post(f"/v2/{SLUG}", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
    assert fake.jobs == ()


def test_unknown_requests_are_404_json(http: httpx.Client) -> None:
    for path in ("/v2/requests/nobody", "/v2/requests/nobody/status", "/v1/requests/nobody"):
        response = http.get(path)
        assert (response.status_code, response.json()) == (404, {"error": "Request nobody not found"})


@pytest.mark.parametrize("style", ["iso", "rfc1123", "epoch", "epoch_ms"])
def test_the_limiter_opens_when_its_header_says(fake: FakeSegmind, http: httpx.Client, style: str) -> None:
    _start_of_a_minute(fake)
    fake.settings.rpm, fake.settings.reset_format = 3, style
    assert [submit(http).status_code for _ in range(4)] == [200, 200, 200, 429]
    response = http.get("/v1/get-user-credits")
    assert response.status_code == 429 and "retry-after" not in response.headers
    assert response.json() == {"error": "rate_limit_exceeded"}
    now = email.utils.parsedate_to_datetime(response.headers["date"]).timestamp()
    reset = _moment(response.headers["x-rate-limit-reset-at-utc"], style)
    assert 0 < reset - now <= 61
    fake.clock.advance(reset - fake.clock.now() + 0.01)
    assert submit(http).status_code == 200
    assert len(fake.jobs) == 4


def test_the_limiter_may_leave_gets_alone(fake: FakeSegmind, http: httpx.Client) -> None:
    _start_of_a_minute(fake)
    fake.settings.rpm, fake.settings.limit_gets = 1, False
    assert [http.get("/v1/get-user-credits").status_code for _ in range(3)] == [200] * 3
    assert [submit(http).status_code for _ in range(2)] == [200, 429]


def _start_of_a_minute(fake: FakeSegmind) -> None:
    fake.clock.advance(60 - fake.clock.now() % 60)


def _moment(text: str, style: str) -> float:
    if style == "iso":
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    if style == "rfc1123":
        return email.utils.parsedate_to_datetime(text).timestamp()
    return float(text) / (1000 if style == "epoch_ms" else 1)


def test_every_shape_leads_to_the_same_pixels(fake: FakeSegmind, http: httpx.Client) -> None:
    pictures = {shape: _picture(fake, http, shape) for shape in Shape}
    assert len(set(pictures.values())) == 1
    assert Image.open(io.BytesIO(pictures[Shape.URL])).size == (512, 512)


def _picture(fake: FakeSegmind, http: httpx.Client, shape: Shape) -> bytes:
    fake.behaviour = Behaviour(shape=shape)
    response = final(http, submit(http))
    if shape is Shape.BYTES:
        return response.content
    body = response.json()
    places: dict[Shape, Any] = {
        Shape.IMAGES: lambda: body["images"][0]["url"],
        Shape.IMAGE_STRINGS: lambda: body["images"][0],
        Shape.LIST: lambda: body["output"][0],
        Shape.NESTED: lambda: body["output"]["image_url"],
        Shape.NESTED_URL: lambda: body["output"]["url"],
        Shape.TOP_IMAGE: lambda: body["image"],
    }
    found = places.get(shape, lambda: body["output"])()
    if shape in (Shape.BASE64, Shape.DATA_URI):
        return base64.b64decode(found.partition(",")[2] or found)
    return httpx.get(found).content


def test_two_outputs_are_two_pictures_and_two_prices(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behaviour = Behaviour(outputs=2)
    body = final(http, submit(http)).json()
    first, second = (httpx.get(image["url"]).content for image in body["images"])
    assert first != second and body["output"] == body["images"][0]["url"]
    assert fake.ledger[0].amount == pytest.approx(2 * PRICE)


def test_files_outlive_records_by_days(fake: FakeSegmind, http: httpx.Client) -> None:
    url = final(http, submit(http)).json()["output"]
    fake.clock.advance(7 * DAY - 60)
    assert httpx.get(url).status_code == 200
    fake.clock.advance(120)
    assert httpx.get(url).status_code == 404


def test_v1_blocks_for_the_jobs_time_and_fails_as_500(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behaviour = Behaviour(queue_seconds=0.1, run_seconds=0.2)
    response = http.post(f"/v1/{SLUG}", json=BODY)
    assert response.elapsed.total_seconds() >= 0.3
    assert response.headers["x-generation-time"] == "0.2"
    assert float(response.headers["x-remaining-credits"]) == fake.balance
    fake.behaviour = Behaviour(error="boom")
    response = http.post(f"/v1/{SLUG}", json=BODY)
    assert (response.status_code, response.json()) == (500, {"error": "boom"})
    assert len(fake.ledger) == 1


def test_minus_one_draws_a_seed_and_says_which(http: httpx.Client) -> None:
    drawn = [http.post(f"/v1/{SLUG}", json={**BODY, "seed": -1}).headers["x-seed-value"] for _ in range(2)]
    assert drawn[0] != drawn[1] and min(map(int, drawn)) >= 0
