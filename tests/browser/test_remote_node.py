"""Segmind Remote in the browser, against a Segmind on loopback: it says what it waits for, and Cancel is heard."""

import itertools
import time

import pytest

from browser.conftest import PACK_FOLDER
from fake_segmind import Behaviour

pytestmark = pytest.mark.host

TEMPLATE = "Segmind remote text to image four seeds"
IN_QUEUE = "Segmind's queue"
AN_HOUR = 3600.0
SEEDS = itertools.count(1000, 10)  # inputs that were never sent before


@pytest.fixture
def template(page, segmind):
    page("openTemplate", folder=PACK_FOLDER, name=TEMPLATE)
    page("choose", title="Segmind Remote", widget="seed", value=next(SEEDS))
    page("choose", title="Segmind Remote", widget="count", value=1)  # four would wait for the rate limit
    yield page
    segmind.behaviour = Behaviour()


def wait_until_idle(comfy, seconds=20.0):
    until = time.monotonic() + seconds
    while comfy.host.get("/queue")["queue_running"]:
        assert time.monotonic() < until, "the run goes on"
        time.sleep(0.1)


def test_it_says_what_it_waits_for_and_shows_the_picture(template, segmind, drawing):
    segmind.behaviour = Behaviour(queue_seconds=4.0, run_seconds=0.5)
    outcome = template("run", title="Picture from Segmind")
    template.screenshot(f"remote finished {drawing}")
    assert outcome["picture"] == [64, 64]
    assert any(IN_QUEUE in text for text in outcome["said"]["SegmindRemote"])


def test_cancel_frees_the_graph_and_says_what_is_still_paid(template, segmind, comfy, drawing):
    segmind.behaviour = Behaviour(queue_seconds=AN_HOUR)
    template("press", button="Run")
    said = template("waitForText", title="Segmind Remote", part=IN_QUEUE)
    template.screenshot(f"remote waiting {drawing}")
    assert "$" in said
    template("press", button="Cancel current run")
    wait_until_idle(comfy)
    template("waitForText", title="Segmind Remote", part="Segmind has no cancel")
    template("settle")
    template.screenshot(f"remote cancelled {drawing}")
    assert template("listIssues") == {}
