"""Every shipped graph as it opens: how large it is read, what lies over what, and how dark the letters are."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from browser.contrast import READABLE, contrast_of_line
from host.checkout import PACK
from host.workflow_files import GRAPHS

pytestmark = pytest.mark.host

NOTES = ("Klein 9B edit two images 16 GB", "Klein 9B make int8 files", "Segmind remote edit two images")
WIDEST = 2000  # pixels of the canvas
LEAST_ZOOM = {1366: 0.32, 1920: 0.46}  # of the tallest: the edit with a report
USUAL_ZOOM = {1366: 0.45, 1920: 0.65}
EMPTY = 1 / 3  # of a group's height


@pytest.fixture(params=["classic", "nodes2"], scope="module")
def figures(request, page):
    """{workflow: its figures} in one drawing, with a picture of each at both widths."""
    page("set", name="Comfy.VueNodes.Enabled", value=request.param == "nodes2")
    page("reset")
    measured = {}
    for path in GRAPHS:
        files = {
            width: str(page.screenshot_path(f"graph {path.stem} {width} {request.param}")) for width in (1366, 1920)
        }
        measured[path.stem] = page("graphFigures", graph=json.loads(path.read_text()), files=files)
    yield SimpleNamespace(drawing=request.param, of=measured)
    page("set", name="Comfy.VueNodes.Enabled", value=False)


def test_they_read_at_a_glance(figures, comfy, record_property):
    for name, one in figures.of.items():
        told = {"width": round(one["width"]), "links behind nodes": len(one["behind"]), **one["zooms"]}
        record_property(f"{name}, {comfy.version}, {figures.drawing}", told)
    wide = {name: one["width"] for name, one in figures.of.items() if one["width"] > WIDEST}
    behind = {name: one["behind"] for name, one in figures.of.items() if one["behind"]}
    over = {name: one["over"] for name, one in figures.of.items() if one["over"]}
    cut = {name: one["cut"] for name, one in figures.of.items() if one["cut"]}
    covered = {name: one["covered"] for name, one in figures.of.items() if any(one["covered"].values())}
    assert (wide, behind, over, cut, covered) == ({}, {}, {}, {}, {})


def test_they_open_at_a_size_that_can_be_read(figures):
    for width in LEAST_ZOOM:
        zooms = [one["zooms"][str(width)] for one in figures.of.values()]
        assert min(zooms) >= LEAST_ZOOM[width] and np.median(zooms) >= USUAL_ZOOM[width], zooms


def test_no_group_has_an_empty_third(figures):
    groups = [(name, group) for name, one in figures.of.items() for group in one["groups"]]
    assert not [(name, group) for name, group in groups if not group["nodes"] or group["empty"] > EMPTY]


@pytest.mark.parametrize("name", NOTES)
def test_the_notes_stand_out(page, drawing, name, record_property):
    page("load", graph=json.loads((PACK / "workflows" / f"{name}.json").read_text()))
    file = page.screenshot_path(f"note {name} {drawing}")
    lines = page("noteLines", file=str(file))
    picture = np.asarray(Image.open(file).convert("RGB"))
    ratios = {}
    for line in lines:
        left, top, right, bottom = (round(edge) for edge in line["box"])
        ratios[line["tag"], line["text"]] = contrast_of_line(picture[max(top, 0) : bottom, max(left, 0) : right])
    record_property("least contrast", min(ratios.values()))
    assert len(lines) > 10 and not {line: ratio for line, ratio in ratios.items() if ratio < READABLE}


class TestTheseTestsCanFail:
    """The measures above see what they look for."""

    def test_a_link_behind_a_node_is_seen(self, page, drawing):
        graph = json.loads((PACK / "workflows" / f"{NOTES[0]}.json").read_text())
        del graph["extra"]["reroutes"], graph["extra"]["linkExtensions"]
        assert page("graphFigures", graph=graph)["behind"]

    def test_pale_letters_have_little_contrast(self):
        picture = np.full((10, 20, 3), 101)
        picture[4, 5:9] = 160
        assert contrast_of_line(picture) < READABLE < contrast_of_line(np.where(picture == 101, 20, 255))
