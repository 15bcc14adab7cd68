"""The workflow with one switch in a running ComfyUI: one lane, and of the other not a byte."""

import itertools

import pytest
from PIL import Image

from fake_segmind import Fault
from host.checkout import PACK
from host.server import HostError
from host.websocket import Watcher
from host.workflow_files import made_small, nodes_of, read, twin
from segmind_host import forget_key, write_key

pytestmark = pytest.mark.host

WORKFLOW = PACK / "workflows" / "Klein 9B one switch, local or Segmind.json"
LOCAL, SEGMIND, WHERE_IT_FITS = "local", "Segmind", "local where it fits, else Segmind"
SEEDS = itertools.count(70_000)
NEVER_FITS = {"width": 4096, "height": 4096, "batch_size": 64, "references": 10, "vram_gib": 8.0, "ram_gib": 32.0}
FITS = {"vram_gib": 24.0, "ram_gib": 64.0}


def graph(lane=None, *, plan=None, seed=None):
    made = made_small(read(twin(WORKFLOW)))
    (switch,), (number,), (asked,) = (nodes_of(made, kind) for kind in ("Klein9BSwitch", "PrimitiveInt", "Klein9BPlan"))
    switch["inputs"] |= {} if lane is None else {"lane": lane}
    number["inputs"]["value"] = next(SEEDS) if seed is None else seed
    asked["inputs"] |= plan or {}
    return made


class Seen:
    """What was read of weights, and sent and charged, since this was made."""

    def __init__(self, host, segmind):
        self._host, self._segmind = host, segmind
        self._before = self._now()

    def _now(self):
        loads = len(self._host.get("/klein9b_probe/loads"))
        return loads, len(self._segmind.requests), len(self._segmind.ledger)

    def __call__(self):
        return tuple(now - before for now, before in zip(self._now(), self._before, strict=True))


@pytest.fixture
def seen(host, segmind):
    """Nothing is loaded, and the host remembers no result."""
    host.post("/free", {"unload_models": True, "free_memory": True})
    return Seen(host, segmind)


def size_of(host, entry):
    (picture,) = host.pictures(entry)
    return Image.open(picture).size


def test_it_is_shipped_on_local_and_sends_nothing(host, seen):
    entry = host.run(graph())
    loads, requests, charges = seen()
    assert loads >= 2 and requests == charges == 0
    assert size_of(host, entry) == Image.open(host.base / "input" / "image_1.png").size


def test_segmind_reads_no_weights_and_is_paid_once(host, seen):
    asked = graph(SEGMIND)
    assert size_of(host, host.run(asked)) == (64, 64)
    loads, requests, charges = seen()
    assert loads == 0 and requests > 0 and charges == 1
    host.post("/free", {"free_memory": True})
    assert size_of(host, host.run(asked)) == (64, 64)
    assert seen()[::2] == (0, 1)


@pytest.mark.parametrize(("plan", "charges"), [(FITS, 0), (NEVER_FITS, 1)], ids=["it fits", "it does not"])
def test_the_plan_decides_before_anything_is_loaded(host, seen, plan, charges):
    with Watcher(host) as watcher:
        host.run(graph(WHERE_IT_FITS, plan=plan), client_id=watcher.client_id)
        said = watcher.said()
    loads, requests, paid = seen()
    assert bool(loads) is not bool(charges) and bool(requests) is bool(charges) and paid == charges
    assert ("The plan says that this does not fit here: Segmind makes it." in said) is bool(charges)


def test_a_missing_file_on_local_is_an_error_and_no_job(host, seen):
    for lane in (LOCAL, WHERE_IT_FITS):
        asked = graph(lane, plan=FITS)
        (load,) = nodes_of(asked, "Klein9BLoader")
        (host.base / "models" / "vae" / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
        load["inputs"]["vae"] = "broken.safetensors"
        with pytest.raises(HostError, match="Klein9BLoader: .*broken"):
            host.run(asked)
    assert seen() == (0, 0, 0)


def test_both_lanes_refused_loses_nothing(host, segmind, seen):
    asked = graph(WHERE_IT_FITS, plan=NEVER_FITS)
    forget_key(host.base)
    try:
        with pytest.raises(
            HostError, match="SegmindRemote: No Segmind API key.*Nothing was sent and nothing was charged"
        ):
            host.run(asked)
    finally:
        write_key(host.base, segmind.key)
    assert seen() == (0, 0, 0)
    assert size_of(host, host.run(asked)) == (64, 64)
    assert seen()[::2] == (0, 1)


def test_without_a_plan_the_third_lane_says_so_and_the_others_run(host, seen):
    asked = graph(WHERE_IT_FITS)
    (switch,) = nodes_of(asked, "Klein9BSwitch")
    del switch["inputs"]["fits"]
    with pytest.raises(HostError, match="Nothing says whether the job fits: connect fits of Klein 9B Plan"):
        host.run(asked)
    assert seen() == (0, 0, 0)


def test_a_lost_answer_and_a_change_of_lanes_is_one_charge(host, segmind, seen):
    """Segmind accepts and its answer is lost; then local; then Segmind again."""
    seed = next(SEEDS)
    segmind.script("submit", Fault.close_after_request())
    first = host.run(graph(SEGMIND, seed=seed))
    host.run(graph(LOCAL, seed=seed))
    again = host.run(graph(SEGMIND, seed=seed))
    assert size_of(host, first) == size_of(host, again) == (64, 64)
    assert seen()[2] == 1
