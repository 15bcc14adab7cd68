"""Storage, history and the image host."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from .jobs import Behaviour
from .server import FakeSegmind
from .settings import SLUG

HISTORY = "/inference-request/request-history"
DAY = 86400.0


@pytest.fixture
def http(fake: FakeSegmind) -> Iterator[httpx.Client]:
    with httpx.Client(headers={"x-api-key": fake.key}, timeout=20) as client:
        yield client


def submit(fake: FakeSegmind, http: httpx.Client, **body: Any) -> str:
    response = http.post(f"{fake.api_url}/v2/{SLUG}", json={"prompt": "a cup", **body})
    return str(response.json()["request_id"])


def history(fake: FakeSegmind, http: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = http.get(fake.account_url + HISTORY, params=query).json()["data"]
    return rows


def today(fake: FakeSegmind) -> str:
    return datetime.fromtimestamp(fake.clock.now(), timezone.utc).date().isoformat()


def test_history_shows_pending_failed_and_completed(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behave(Behaviour(), Behaviour(error="boom"), Behaviour(run_seconds=1000))
    ids = [submit(fake, http, seed=i) for i in range(3)]
    rows = {row["request_id"]: row for row in history(fake, http)}
    done, failed, pending = (rows[request_id] for request_id in ids)
    assert [row["model_status"] for row in (done, failed, pending)] == ["COMPLETED", "FAILED", "PENDING"]
    assert [row["credits_deduction"] for row in (done, failed, pending)] == [0.0402, 0.0, 0.0]
    assert failed["error"] == "boom" and done["error"] is None
    assert done["generation_url"] and not failed["generation_url"] and not pending["generation_url"]
    assert [row["request_id"] for row in history(fake, http, status="PENDING")] == [ids[2]]


def test_history_repeats_a_request_once_per_output_with_its_full_cost(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behaviour = Behaviour(outputs=2)
    submit(fake, http)
    rows = history(fake, http)
    assert len({row["request_id"] for row in rows}) == 1 and len({row["generation_url"] for row in rows}) == 2
    assert [row["credits_deduction"] for row in rows] == [0.0804, 0.0804]


def test_history_windows(fake: FakeSegmind, http: httpx.Client) -> None:
    submit(fake, http)
    first_day = today(fake)
    fake.clock.advance(8 * DAY)
    assert history(fake, http) == [], "the default window is the last seven days"
    assert len(history(fake, http, from_date=first_day, to_date=first_day)) == 1
    far = (datetime.fromisoformat(first_day) - timedelta(days=32)).date().isoformat()
    response = http.get(fake.account_url + HISTORY, params={"from_date": far, "to_date": first_day})
    assert response.status_code == 400 and "31 days" in response.json()["error"]
    for bad in ({"per_page": 101}, {"page": 0}, {"from_date": "yesterday"}):
        assert http.get(fake.account_url + HISTORY, params=bad).status_code == 400


def test_a_request_of_any_age_resolves_by_id(fake: FakeSegmind, http: httpx.Client) -> None:
    request_id = submit(fake, http)
    fake.clock.advance(400 * DAY)
    row = http.get(f"{fake.account_url}{HISTORY}/{request_id}").json()
    assert row["request_id"] == request_id and row["generation_url"]
    assert http.get(f"{fake.account_url}{HISTORY}/nobody").status_code == 404


def test_history_pages_and_sorts(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.behave(*[Behaviour(cost=cost) for cost in (0.02, 0.03, 0.01)])
    ids = [submit(fake, http, seed=i) for i in range(3)]
    assert [row["request_id"] for row in history(fake, http)] == ids[::-1], "newest first"
    dearest = history(fake, http, sort_by="credits_deduction", sort_order="desc", per_page=1)
    assert [row["request_id"] for row in dearest] == [ids[1]]
    pages = [history(fake, http, per_page=2, page=page) for page in (1, 2, 3)]
    assert [len(page) for page in pages] == [2, 1, 0]
    assert history(fake, http, model_name="klein") and not history(fake, http, model_name="sdxl")


def test_history_lags(fake: FakeSegmind, http: httpx.Client) -> None:
    fake.settings.history_lag_seconds = 30
    request_id = submit(fake, http)
    assert history(fake, http) == []
    assert http.get(f"{fake.account_url}{HISTORY}/{request_id}").status_code == 404
    listed = http.get(f"{fake.account_url}/inference-request/generations").json()["data"][0]
    assert listed["generation_url"] and listed["parameters"] is None and listed["credits_deduction"] is None
    fake.clock.advance(31)
    assert len(history(fake, http)) == 1


def test_history_shows_the_inputs_in_each_known_form(fake: FakeSegmind, http: httpx.Client) -> None:
    body = {"prompt": 'it\'s "so"\n\u00e9', "seed": 3, "go_fast": True, "image_urls": []}
    fake.settings.history_extra = {"base64": False}
    submit(fake, http, **body)
    wanted = {**body, "base64": False}
    seen = {}
    for form in ("python", "json", "object"):
        fake.settings.history_body = form
        seen[form] = history(fake, http)[0]["request_body"]
    assert ast.literal_eval(seen["python"]) == json.loads(seen["json"]) == seen["object"] == wanted


def test_uploads_keep_order_and_bytes(fake: FakeSegmind, http: httpx.Client) -> None:
    files = [b"first", b"second" * 50_000, b"first"]
    data_urls = ["data:image/png;base64," + base64.b64encode(data).decode() for data in files]
    response = http.post(f"{fake.storage_url}/upload-asset", json={"data_urls": data_urls})
    urls = response.json()["file_urls"]
    assert [httpx.get(url).content for url in urls] == files and len(set(urls)) == 3
    assert fake.requests_to("upload")[0].json() == {"data_urls": data_urls}, "spooled bodies read back"


def test_uploads_in_the_other_reply_forms(fake: FakeSegmind, http: httpx.Client) -> None:
    sent = {"data_urls": ["data:image/png;base64,AAAA"]}
    seen = {}
    for key in ("urls", "url"):
        fake.settings.upload_key = key
        seen[key] = http.post(f"{fake.storage_url}/upload-asset", json=sent).json()[key]
    assert isinstance(seen["urls"], list) and isinstance(seen["url"], str)


def test_uploads_refuse_what_they_cannot_keep(fake: FakeSegmind, http: httpx.Client) -> None:
    url = f"{fake.storage_url}/upload-asset"
    bad: tuple[Any, ...] = ([], ["nope"], ["data:a/b;base64,!"], "data:a/b;base64,AAAA")
    assert [http.post(url, json={"data_urls": value}).status_code for value in bad] == [400] * 4
    assert httpx.post(url, json={"data_urls": []}).status_code == 401
    fake.settings.max_upload_bytes = 10
    assert http.post(url, json={"data_urls": ["data:image/png;base64,AAAA"]}).status_code == 413


def test_the_image_host_needs_no_key_and_hides_the_disk(fake: FakeSegmind) -> None:
    for path in ("/assets/..%2f..%2fetc%2fhostname", "/assets/../../etc/hostname", "/generations/x.png", "/"):
        assert httpx.get(fake.image_url + path).status_code == 404
