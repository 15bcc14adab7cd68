"""The official client, unchanged, lives an ordinary life against the fake."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

segmind = pytest.importorskip("segmind")

from . import sdk  # noqa: E402
from .jobs import Behaviour, Shape  # noqa: E402
from .routes import INVALID_KEY  # noqa: E402
from .server import FakeSegmind  # noqa: E402
from .settings import SLUG  # noqa: E402

pytestmark = pytest.mark.peer
BODY = {"prompt": "a red cup \u00e9\U0001f600", "seed": 1}
HOUR = 3600.0


def test_run_returns_the_completed_body(fake: FakeSegmind) -> None:
    result = sdk.client_of(fake).run(SLUG, **BODY)
    assert (result["status"], result["error"]) == ("COMPLETED", None)
    assert result["metrics"]["cost"] == pytest.approx(0.0402)
    assert result["metrics"]["remaining_credits"] == fake.balance
    assert result["output"] == result["images"][0]["url"]
    assert httpx.get(result["output"]).headers["content-type"] == "image/png"


def test_the_wire_is_what_was_captured_from_the_client(fake: FakeSegmind) -> None:
    """Method, path, headers and compact UTF-8 body; nothing the fake needs that the client does not send."""
    sdk.client_of(fake).run(SLUG, **BODY)
    submit = fake.requests_to("submit")[0]
    assert (submit.method, submit.target) == ("POST", f"/v2/{SLUG}")
    assert submit.body == '{"prompt":"a red cup \u00e9\U0001f600","seed":1}'.encode()
    wanted = {
        "content-type": "application/json",
        "user-agent": f"segmind-python-sdk/{segmind.__version__}",
        "x-initiator": "SDK-PY",
        "x-api-key": fake.key,
    }
    assert {name: submit.header(name) for name in wanted} == wanted


def test_a_handle_sees_every_state(fake: FakeSegmind) -> None:
    fake.behaviour = Behaviour(queue_seconds=100, run_seconds=100)
    job = sdk.client_of(fake).submit_async(SLUG, **BODY)
    assert job.submit_response["status"] == "QUEUED"
    assert job.submit_response["poll_url"] == f"{fake.api_url}/v1/requests/{job.request_id}"
    seen = []
    for _ in range(3):
        seen.append(job.status()["status"])
        fake.clock.advance(100)
    assert seen == ["QUEUED", "PROCESSING", "COMPLETED"]
    assert job.result()["metrics"]["queue_time"] == 100


def test_wait_polls_until_done(fake: FakeSegmind) -> None:
    fake.behaviour = Behaviour(queue_seconds=0.1, run_seconds=0.1)
    job = sdk.client_of(fake).submit_async(SLUG, **BODY)
    assert job.wait(timeout=20, interval=0.02)["status"] == "COMPLETED"
    assert len(fake.requests_to("status")) > 2


def test_wait_gives_up_and_the_job_goes_on(fake: FakeSegmind) -> None:
    fake.behaviour = Behaviour(run_seconds=100)
    job = sdk.client_of(fake).submit_async(SLUG, **BODY)
    with pytest.raises(segmind.InferenceTimeout) as caught:
        job.wait(timeout=0.05, interval=0.01)
    assert caught.value.request_id == job.request_id
    assert fake.ledger == ()
    fake.clock.advance(100)
    assert len(fake.ledger) == 1


def test_failure_is_raised_with_the_servers_words_and_is_free(fake: FakeSegmind) -> None:
    fake.behaviour = Behaviour(error="CUDA out of memory")
    with pytest.raises(segmind.InferenceFailed) as caught:
        sdk.client_of(fake).run(SLUG, **BODY)
    assert caught.value.detail == "CUDA out of memory"
    assert set(caught.value.status_body["metrics"]) == {"inference_time", "queue_time", "total_time"}
    assert fake.ledger == () and fake.balance == fake.settings.credits


def test_parameters_named_like_controls_reach_the_body(fake: FakeSegmind) -> None:
    sdk.client_of(fake).run(SLUG, prompt="x", interval=4, timeout=7)
    assert fake.requests_to("submit")[0].json() == {"prompt": "x", "interval": 4, "timeout": 7}


def test_run_sync_is_one_blocking_v1_call(fake: FakeSegmind) -> None:
    response = sdk.client_of(fake).run_sync(SLUG, **BODY)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-cost"] == "0.0402"
    assert response.headers["x-seed-value"] == "1"
    assert response.headers["x-request-id"] == fake.jobs[0].request_id
    assert fake.submits == 0 and len(fake.ledger) == 1


@pytest.mark.parametrize("shape", [shape for shape in Shape if shape is not Shape.BYTES])
def test_every_shape_is_a_dict_with_a_status(fake: FakeSegmind, shape: Shape) -> None:
    fake.behaviour = Behaviour(shape=shape)
    assert sdk.client_of(fake).run(SLUG, **BODY)["status"] == "COMPLETED"


def test_an_expired_record_is_404_everywhere(fake: FakeSegmind) -> None:
    job = sdk.client_of(fake).submit_async(SLUG, **BODY)
    fake.clock.advance(HOUR - 60)
    assert job.status()["status"] == "COMPLETED"
    fake.clock.advance(120)
    for ask in (job.status, job.result):
        with pytest.raises(segmind.SegmindError) as caught:
            ask()
        assert caught.value.status == 404
        assert caught.value.detail == f"Request {job.request_id} not found"


def test_the_two_401s_differ(fake: FakeSegmind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGMIND_API_KEY", raising=False)
    with pytest.raises(segmind.SegmindError) as missing:
        sdk.client_of(fake, key="").submit_async(SLUG, **BODY)
    with pytest.raises(segmind.SegmindError) as invalid:
        sdk.client_of(fake, key=fake.key[:-1] + "z").submit_async(SLUG, **BODY)
    assert [error.value.status for error in (missing, invalid)] == [401, 401]
    assert missing.value.detail == "Missing Authorization or x-api-key in header"
    assert invalid.value.detail == INVALID_KEY
    assert fake.jobs == ()


def test_files_upload_and_become_references(fake: FakeSegmind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sdk.move_constants(fake, monkeypatch)
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path, colour in zip(paths, ("red", "blue")):
        Image.new("RGB", (32, 24), colour).save(path)
    client = sdk.client_of(fake)
    urls = client.files.upload(paths)["file_urls"]
    assert [httpx.get(url).content for url in urls] == [path.read_bytes() for path in paths]
    assert all(url.startswith(f"{fake.image_url}/assets/") for url in urls)
    assert client.run(SLUG, **BODY, image_urls=urls)["status"] == "COMPLETED"
    assert fake.key_leaks == ()


def test_the_account_is_read(fake: FakeSegmind, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk.move_constants(fake, monkeypatch)
    client = sdk.client_of(fake)
    job = client.submit_async(SLUG, **BODY)
    output = job.wait(interval=0.01)["output"]
    row = client.generations.history(model_name=SLUG, status="COMPLETED")["data"][0]
    assert (row["request_id"], row["generation_url"]) == (job.request_id, output)
    assert row["request_body"] == repr(BODY), "the text of a Python dict, as the client's own tests have it"
    assert client.generations.get(job.request_id) == row
    with pytest.raises(segmind.SegmindError) as caught:
        client.generations.get("../team-usage-summary")
    assert caught.value.status == 404
    balance = client._request("GET", "/get-user-credits").json()
    assert balance["credits"] == fake.balance == pytest.approx(10 - 0.0402)


def test_the_client_with_its_own_hosts_and_only_its_sockets_redirected(fake: FakeSegmind) -> None:
    """No override at all: base_url, storage, history and the URLs inside methods are the client's own."""
    client = sdk.detoured_client_of(fake)
    assert client.base_url == "https://api.segmind.com/v1"
    request_id = client.submit_async(SLUG, **BODY).request_id
    assert client.generations.list(model_name="klein")["data"][0]["parameters"] == BODY
    assert client.generations.list(start_date="2001-01-01", end_date="2001-01-02")["data"] == []
    assert client.generations.recent(SLUG)["data"][0]["request_id"] == request_id
    assert client.generations.history()["total"] == 1
    assert client.models.list()[0]["slug"] == SLUG


def test_the_modules_own_default_client(fake: FakeSegmind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmind, "_default_client", sdk.client_of(fake))
    assert segmind.run(SLUG, **BODY)["status"] == "COMPLETED"


def test_the_client_under_test_is_the_version_described() -> None:
    assert sys.modules["segmind"].__version__ == "1.3.0"
