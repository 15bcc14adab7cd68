"""A lane on a Segmind of its own, whose waits pass fast."""

import pytest
from lanes import FastClock, a_lane, small_fake


@pytest.fixture
def fake():
    with small_fake() as server:
        yield server


@pytest.fixture
def clock():
    return FastClock()


@pytest.fixture
def lane(fake, tmp_path, clock):
    with a_lane(fake, tmp_path, clock=clock) as made:
        yield made
