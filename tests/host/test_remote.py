"""Segmind Remote and Segmind Jobs in a running ComfyUI, against a Segmind on loopback."""

import json

import numpy as np
import pytest
from PIL import Image

from host.graphs import remote

pytestmark = pytest.mark.host


def receipt(entry, name="remote"):
    return json.loads(entry["outputs"][f"{name}_receipt"]["text"][0])


class Spent:
    """What has been submitted and charged since this was made."""

    def __init__(self, segmind):
        self._segmind, self._submits, self._charges = segmind, segmind.submits, len(segmind.ledger)

    @property
    def submits(self):
        return self._segmind.submits - self._submits

    @property
    def charges(self):
        return len(self._segmind.ledger) - self._charges


@pytest.fixture
def spent(segmind):
    return Spent(segmind)


def test_two_photographs_become_a_picture_and_a_receipt(host, segmind, spent):
    entry = host.run(remote(["image_1.png", "image_2.png"], prompt="the cup of image 2 in the hand of image 1"))
    (path,) = host.pictures(entry)
    told = receipt(entry)
    assert spent.submits == spent.charges == 1
    assert np.asarray(Image.open(path)).std() > 1
    assert told["seed"] == 7 and told["cost_usd"] == pytest.approx(0.0402) and told["request_id"]
    assert len(segmind.jobs[-1].body["image_urls"]) == 2
