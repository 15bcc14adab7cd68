"""The price on Segmind Remote before Run, in both frontends and both drawings, and the same in the receipt."""

import itertools
import json

import pytest

from segmind_host import JOURNAL_FILE, Journal, private_folder

pytestmark = pytest.mark.host

SEEDS = itertools.count(5000, 10)  # inputs that were never sent before


def a_dearer_job(base, cost_usd):
    journal = Journal(private_folder(base) / JOURNAL_FILE)
    row = journal.claim(f"costs {cost_usd}", prompt="", seed=1)
    journal.submitting(row.id, "")
    journal.accepted(row.id, f"costs-{cost_usd}")
    journal.settle(row.id, cost_usd)
    journal.kept(row.id, "0" * 64)
    journal.close()


def test_it_stands_on_the_node_and_nowhere_else(page, comfy, drawing):
    """What was read when the page was opened."""
    said = comfy.host.get("/object_info/SegmindRemote")["SegmindRemote"]
    text = json.loads(said["price_badge"]["expr"])["text"]
    remote = page("placeNode", type="SegmindRemote", x=100, y=100)
    texts = page("writtenOn", id=remote)
    page.screenshot(f"price {drawing}")
    assert any(text in one for one in texts), texts
    assert text.startswith("about $0.0") and not said["api_node"]
    page("reset")
    other = page("placeNode", type="SegmindJobs", x=100, y=100)
    assert not any(text in one for one in page("writtenOn", id=other))


def test_it_follows_the_accounts_last_jobs_and_is_the_receipts_estimate(page, comfy, segmind):
    a_dearer_job(comfy.host.base, 0.0514)
    try:
        page("open", url=comfy.host.url)
        page("reset")
        remote = page("placeNode", type="SegmindRemote", x=100, y=100)
        assert any("about $0.0514 a picture" in one for one in page("writtenOn", id=remote))
        graph = page("apiFormat")
        (key,) = graph
        graph[key]["inputs"] |= {"prompt": "the estimate", "seed": next(SEEDS)}
        graph["receipt"] = {"class_type": "ProbeText", "inputs": {"text": [key, 2]}}
        entry = comfy.host.run(graph)
        receipt = json.loads(entry["outputs"]["receipt"]["text"][0])
        assert receipt["estimate_usd"] == pytest.approx(0.0514)
    finally:
        a_dearer_job(comfy.host.base, 0.0402)
