"""One scenario table drives the official SDK and this lane: the same bytes on the wire, better ends."""

import json
import time

import httpx
import pytest
from lanes import PACE, a_lane, run, small_fake

from fake_segmind.scenarios import SCENARIOS, Ours
from fake_segmind.settings import SLUG
from klein9b.remote import errors
from klein9b.remote.request import KleinRequest
from klein9b.remote.service import Picture

pytest.importorskip("segmind")
from fake_segmind import sdk

pytestmark = pytest.mark.peer

COMPACT = tuple(map(int, httpx.__version__.split(".")[:2])) >= (0, 28)
TIMEOUT_S = 300.0
SLACK_S = 2.5
ENDS = {
    Ours.PICTURE: Picture,
    Ours.FAILED: errors.JobFailed,
    Ours.REJECTED: errors.Rejected,
    Ours.UNKNOWN: errors.OutcomeUnknown,
    Ours.STILL_RUNNING: errors.StillRunning,
    Ours.KEPT: (errors.StillRunning, errors.DownloadRefused),
}
# The fake's history names a better address than its result does: we find the picture.
FOUND_IN_HISTORY = {"output_is_a_file"}
# On loopback an impostor cannot be told from the image host; test_client.py refuses foreign hosts by name.
LOOPBACK_ONLY = {"output_on_evil_host"}
PARAMETERS = {
    "prompt": "make the woman in image 1 wear the cardigan from image 2: \u00e9\U0001f600 \u2028",
    "image_urls": ["https://segmind-resources.s3.amazonaws.com/output/42b5.png", "https://example.com/b.jpeg"],
    "negative_prompt": "low quality, blurry, less details",
    "seed": 3425234,
    "cfg": 5,
    "sampler": "euler",
    "steps": 20,
    "aspect_ratio": "1:1",
    "go_fast": True,
    "image_format": "png",
    "quality": 90,
}


def end_of(lane, body):
    try:
        return run(lane, KleinRequest(**body), timeout_s=TIMEOUT_S)[0]
    except errors.SegmindError as error:
        return error


@pytest.mark.parametrize("one", SCENARIOS, ids=lambda one: one.name)
def test_our_end_in_every_scenario(one, tmp_path):
    if one.name in LOOPBACK_ONLY:
        pytest.skip("an impostor on loopback cannot be told from the image host")
    with small_fake() as fake, a_lane(fake, tmp_path) as lane:
        one.apply(fake)
        began = time.monotonic()
        end = end_of(lane, one.body)
        assert time.monotonic() - began < TIMEOUT_S / PACE + SLACK_S
        wanted = Ours.PICTURE if one.name in FOUND_IN_HISTORY else one.ours
        assert isinstance(end, ENDS[wanted]), end
        assert len(fake.ledger) == one.our_charges
        assert fake.submits <= one.max_submits
        assert not fake.key_leaks and not fake.requests_to("evil")
        assert fake.key not in str(end) + repr(end)
        accepted = wanted in (Ours.STILL_RUNNING, Ours.KEPT, Ours.FAILED)
        assert not accepted or end.request_id == fake.jobs[0].request_id


def wire(seen):
    """What the two clients must have in common; before httpx 0.28 the SDK's JSON was not compact."""
    body = seen.body if COMPACT else json.loads(seen.body)
    return seen.method, seen.target, seen.header("content-type"), body


@pytest.mark.parametrize("changes", [{}, {"cfg": 2.5, "seed": 2**32 - 1}, {"image_urls": []}])
def test_a_submit_has_the_sdks_bytes(changes, tmp_path):
    body = KleinRequest(**{**PARAMETERS, **changes}).body()
    with small_fake() as fake, a_lane(fake, tmp_path) as lane:
        sdk.client_of(fake).submit_async(SLUG, **body)
        end_of(lane, {**PARAMETERS, **changes})
        theirs, ours = fake.requests_to("submit")
        assert wire(theirs) == wire(ours)
        assert json.loads(ours.body) == body
        assert ours.header("x-api-key") == theirs.header("x-api-key") == fake.key


def test_named_differences_of_the_submit(tmp_path):
    with small_fake() as fake, a_lane(fake, tmp_path) as lane:
        sdk.client_of(fake).submit_async(SLUG, **PARAMETERS)
        end_of(lane, PARAMETERS)
        theirs, ours = ({k.lower(): v for k, v in seen.headers} for seen in fake.requests_to("submit"))
        differ = {name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)}
        # Our own name; no X-Initiator, which is the SDK's; no compression, so that sizes can be limited; a
        # connection of its own, since an idle one that dies as we write looks like a lost submit.
        assert differ - ({"content-length"} if not COMPACT else set()) <= {
            "user-agent",
            "x-initiator",
            "accept-encoding",
            "connection",
        }
        assert ours["user-agent"].startswith("comfyui-klein9b/")


def test_status_and_result_are_asked_at_the_sdks_addresses(tmp_path):
    with small_fake() as fake, a_lane(fake, tmp_path) as lane:
        job = sdk.client_of(fake).submit_async(SLUG, **PARAMETERS)
        job.wait(interval=0.01)
        theirs = {seen.target for seen in fake.requests if seen.method == "GET"}
        end_of(lane, PARAMETERS)
        mine = fake.jobs[-1].request_id
        asked = {seen.target for seen in fake.requests_to("status") + fake.requests_to("result")}
        assert {target.replace(job.request_id, mine) for target in theirs} <= asked


def test_an_upload_has_the_sdks_bytes(tmp_path, monkeypatch):
    import numpy as np

    from klein9b.remote import images

    photo = np.linspace(0, 1, 8 * 8 * 3, dtype=np.float32).reshape(8, 8, 3)
    file = tmp_path / "photo.png"
    file.write_bytes(images.encode(photo).data)
    with small_fake() as fake, a_lane(fake, tmp_path / "lane") as lane:
        sdk.move_constants(fake, monkeypatch)
        sdk.client_of(fake).files.upload(str(file))
        run(lane, KleinRequest(prompt="x"), arrays=[photo])
        theirs, ours = fake.requests_to("upload")
        assert wire(theirs) == wire(ours)
        assert theirs.header("accept") == ours.header("accept")
