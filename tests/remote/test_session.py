"""The whole lane against the fake on loopback."""

import asyncio

import numpy as np
import pytest
from lanes import FastClock, a_lane, account_of, request, run

from fake_segmind import Behaviour, Fault
from klein9b.remote.errors import BadInput
from klein9b.remote.keys import Key
from klein9b.remote.service import Terms, _session
from klein9b.remote.service import run as service_run


@pytest.fixture
def lane(fake, tmp_path):
    with a_lane(fake, tmp_path) as made:
        yield made


def test_two_photographs_and_a_prompt_become_a_paid_picture_once(fake, lane):
    photos = [np.full((8, 8, 3), 0.25, np.float32), np.full((8, 8, 3), 0.75, np.float32)]
    first = run(lane, request(), arrays=photos)
    again = run(lane, request(), arrays=photos)
    assert len(fake.ledger) == fake.submits == 1
    assert len(fake.requests_to("upload")) == 2
    assert np.array_equal(first[0].decoded.image, again[0].decoded.image)
    assert not first[0].receipt["reused"] and again[0].receipt["reused"]
    assert first[0].receipt["cost_usd"] == pytest.approx(0.0402)


def test_what_is_left_out_is_told_with_its_reason(fake, lane):
    fake.behave(Behaviour(error="CUDA out of memory"))
    told = {}
    requests = [request(), request(seed=8)]
    pictures = asyncio.run(lane.run(requests, [], Terms(on_item_error="skip"), on_skip=told.__setitem__))
    (place,) = told
    assert "out of memory" in str(told[place])
    assert [picture.receipt["seed"] for picture in pictures] == [requests[1 - place].seed]


def test_a_changed_upload_is_told(fake, lane):
    clear = np.zeros((8, 8, 4), np.float32)
    (picture,) = run(lane, request(), arrays=[np.zeros((8, 8, 3), np.float32), clear])
    assert picture.receipt["uploads"] == ["image 2: transparent parts were put on white"]


def test_a_refused_image_is_named_by_its_place(lane):
    bad = np.full((8, 8, 3), np.nan, np.float32)
    with pytest.raises(BadInput, match="^Image 2: An image holds NaN"):
        run(lane, request(), arrays=[np.zeros((8, 8, 3), np.float32), bad])


def test_more_than_ten_references_are_refused_before_anything_is_sent(fake, tmp_path):
    photos = [np.zeros((8, 8, 3), np.float32)] * 10
    asked = request(image_urls=("https://images.example.com/a.png",))
    with pytest.raises(BadInput, match="11 reference images .10 from connected images, 1 from image_urls"):
        asyncio.run(service_run(account_of(fake, tmp_path), [asked], photos))
    assert not fake.requests and not list(tmp_path.iterdir())


def test_a_key_read_twice_has_one_session(fake, tmp_path):
    """One session is one rate limit and one owner of jobs; the node reads the key for every run."""
    sessions = {id(_session(account_of(fake, tmp_path))) for _ in range(2)}
    assert len(sessions) == 1
    assert Key(fake.key) != Key("SG_" + "0123456789abcdef")


def test_every_state_is_heard_in_its_turn(fake, tmp_path):
    """At the pace of a real clock: the first look at a job is late, and until then it is accepted."""
    fake.behave(Behaviour(queue_seconds=0.2, run_seconds=0.2))
    fake.script("upload", Fault.stall_headers(0.3))
    heard = []
    with a_lane(fake, tmp_path, clock=FastClock(4.0)) as lane:
        told = lambda jobs: heard.extend(job.state for job in jobs if job)  # noqa: E731
        asyncio.run(lane.run([request()], [np.zeros((8, 8, 3), np.float32)], Terms(), told))
    states = list(dict.fromkeys(heard))
    assert [state for state in states if state in ("UPLOADING", "ACCEPTED")] == ["UPLOADING", "ACCEPTED"]
    assert "PLANNED" not in heard[heard.index("ACCEPTED") :]
