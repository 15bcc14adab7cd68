"""The official client in every scenario: what it does today, so that a change of it shows here first."""

from __future__ import annotations

import json

import httpx
import pytest

segmind = pytest.importorskip("segmind")

from . import sdk  # noqa: E402
from .scenarios import SCENARIOS, Scenario, Sdk, scenario  # noqa: E402
from .server import FakeSegmind  # noqa: E402
from .settings import SLUG  # noqa: E402

pytestmark = pytest.mark.peer
PATIENT_SECONDS = 20.0
# Long enough for a loaded two-core machine to answer an undisturbed request, short enough to wait out.
STALL_SECONDS = 2.0
SPIN_SECONDS = 0.3
STATUS_POLLS_WHEN_SPINNING = 5


def drive(fake: FakeSegmind, one: Scenario) -> Sdk:
    """Submit and wait once, as ``segmind.run`` does."""
    client = sdk.client_of(fake, timeout=STALL_SECONDS if one.stalls else PATIENT_SECONDS)
    patience = SPIN_SECONDS if one.sdk is Sdk.TIMEOUT else PATIENT_SECONDS
    try:
        result = client.submit_async(SLUG, **one.body).wait(timeout=patience, interval=0.01)
    except Exception as error:
        return classify(error)
    finally:
        client._client.close()
    return Sdk.RESULT if result.get("status") == "COMPLETED" else Sdk.EMPTY


def classify(error: Exception) -> Sdk:
    kinds: dict[type[Exception], Sdk] = {
        segmind.InferenceFailed: Sdk.FAILED,
        segmind.InferenceTimeout: Sdk.TIMEOUT,
        segmind.SegmindError: Sdk.ERROR,
        httpx.TransportError: Sdk.TRANSPORT,
        json.JSONDecodeError: Sdk.DECODE,
        AttributeError: Sdk.ATTRIBUTE,
    }
    for kind, outcome in kinds.items():
        if isinstance(error, kind):
            return outcome
    raise error


@pytest.mark.parametrize("one", SCENARIOS, ids=lambda one: one.name)
def test_the_official_client_does_what_the_table_says(fake: FakeSegmind, one: Scenario) -> None:
    one.apply(fake)
    assert drive(fake, one) is one.sdk
    assert fake.submits == 1
    assert len(fake.ledger) == one.charges
    assert bool(fake.key_leaks) is one.sdk_leaks


def test_names_are_unique_and_every_row_is_checked() -> None:
    names = [one.name for one in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {one.sdk for one in SCENARIOS} == set(Sdk)


def test_a_foreign_status_url_gets_the_key(fake: FakeSegmind) -> None:
    scenario("submit_foreign_urls").apply(fake)
    client = sdk.client_of(fake)
    result = client.submit_async(SLUG, prompt="x").wait(interval=0.01)
    assert [leak.header("x-api-key") for leak in fake.key_leaks] == [fake.key] * 2
    assert result["output"].startswith(fake.evil_url), "it takes the impostor's picture for its own"


def test_run_loses_the_request_id_when_a_poll_is_disturbed(fake: FakeSegmind) -> None:
    """The job is paid for, and neither the exception nor its text says which job it was."""
    scenario("status_rate_limited").apply(fake)
    with pytest.raises(segmind.SegmindError) as caught:
        sdk.client_of(fake).run(SLUG, prompt="x")
    assert len(fake.ledger) == 1
    assert fake.jobs[0].request_id not in repr(caught.value) + str(caught.value)


def test_an_unknown_state_is_polled_until_the_deadline(fake: FakeSegmind) -> None:
    scenario("status_unknown_state").apply(fake)
    job = sdk.client_of(fake).submit_async(SLUG, prompt="x")
    with pytest.raises(segmind.InferenceTimeout):
        job.wait(timeout=SPIN_SECONDS, interval=0.01)
    assert len(fake.requests_to("status")) > STATUS_POLLS_WHEN_SPINNING


def test_a_validation_422_loses_its_detail(fake: FakeSegmind) -> None:
    scenario("refused_validation").apply(fake)
    with pytest.raises(segmind.SegmindError) as caught:
        sdk.client_of(fake).submit_async(SLUG, prompt="x")
    assert (caught.value.status, caught.value.detail) == (422, None)


def test_a_slug_can_climb_out_of_v2(fake: FakeSegmind) -> None:
    """httpx normalises the path, so the submit lands on another endpoint."""
    with pytest.raises(segmind.SegmindError):
        sdk.client_of(fake).submit_async("../v1/get-user-credits", prompt="x")
    assert [request.path for request in fake.requests] == ["/v1/get-user-credits"]
    assert fake.submits == 0


def test_not_a_number_never_leaves_the_client(fake: FakeSegmind) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        sdk.client_of(fake).run_sync(SLUG, prompt="x", cfg=float("nan"))
    assert fake.requests == ()
