"""Klein 9B Edit Report in the running host: a known edit, what people see of it, and pictures of two sizes."""

import json

import numpy as np
import pytest
from PIL import Image

from host.graphs import klein, node
from host.server import HostError
from host.websocket import Watcher
from standins.edited_photographs import edited

pytestmark = pytest.mark.host

CHOICES = {"undo_movement": True, "lock_colors": True, "only_changes": True, "threshold": 5.0, "feather": 0}


@pytest.fixture(scope="module")
def pair(host):
    made = edited(320, 256, shift=(5, -3), changed=0.3, noise=1, seed=2)
    for name, picture in (("original.png", made.original), ("edit.png", made.edit)):
        Image.fromarray((picture * 255).round().astype(np.uint8)).save(host.base / "input" / name)
    return made


def graph():
    return {
        "original": node("LoadImage", image="original.png"),
        "edit": node("LoadImage", image="edit.png"),
        "report": node("Klein9BEditReport", original=["original", 0], edit=["edit", 0], **CHOICES),
        "text": node("PreviewAny", source=["report", 2]),
        "mask": node("MaskToImage", mask=["report", 1]),
        "save": node("SaveImage", images=["report", 0], filename_prefix="report"),
        "save_mask": node("SaveImage", images=["mask", 0], filename_prefix="report_mask"),
    }


def test_a_known_edit_is_reported_and_laid_over_the_original(host, pair):
    with Watcher(host) as watcher:
        entry = host.run(graph(), client_id=watcher.client_id)
    (text,) = entry["outputs"]["text"]["text"]
    shift, *_, changed = text.splitlines()
    assert shift.startswith(("shift: 4.9", "shift: 5.0")) and " px right, " in shift and shift.endswith(" px up")
    assert changed.startswith("changed: 3")
    assert shift in watcher.said()
    picture, mask = (np.asarray(Image.open(path).convert("RGB")) for path in host.pictures(entry))
    original = np.asarray(Image.open(host.base / "input" / "original.png"))
    same = mask[..., 0] == 0
    assert 0.6 < same.mean() < 0.75 and (picture[same] == original[same]).all()
    assert np.abs(picture[~same].astype(int) - original[~same]).mean() > 20


def test_of_two_sizes_nothing_is_lost(host):
    """The next run, with Klein 9B Restore in between, goes on from the sampled latent."""
    without = klein(["image_1.png"], seed=11)
    without["report"] = node("Klein9BEditReport", original=["photo_1", 0], edit=["decode", 0], **CHOICES)
    without["save"] = node("SaveImage", images=["report", 0], filename_prefix="report")
    Image.new("RGB", (123, 117)).save(host.base / "input" / "odd.png")
    without["photo_1"]["inputs"]["image"] = "odd.png"
    with pytest.raises(HostError, match="expected two pictures of one size. Put Klein 9B Restore between"):
        host.run(without)
    repaired = json.loads(json.dumps(without))
    repaired["report"]["inputs"]["edit"] = ["restore", 0]
    entry = host.run(repaired)
    kept = dict(entry["status"]["messages"])["execution_cached"]["nodes"]
    assert {"sample", "decode"} <= set(kept)
    (saved,) = host.pictures(entry)
    assert Image.open(saved).size == (123, 117)
