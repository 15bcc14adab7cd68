"""The whole lane against the fake on loopback."""

import numpy as np
import pytest
from lanes import a_lane, request, run, small_fake


@pytest.fixture
def fake():
    with small_fake() as server:
        yield server


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
