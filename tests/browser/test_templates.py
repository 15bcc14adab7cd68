"""Every shipped workflow, opened from the template browser as a person opens it."""

import pytest

from browser.conftest import PACK_FOLDER
from host.workflow_files import GRAPHS, WORKFLOWS, all_nodes, read

pytestmark = pytest.mark.host

by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def without_packs(graph):
    """Newer frontends also write each node's pack and its version."""
    for node in graph.values():
        node["_meta"] = {"title": node["_meta"]["title"]}
    return graph


def models_of(path):
    nodes = all_nodes(read(path))
    chosen = {node["widgets_values"][0] for node in nodes if node["type"] in ("Klein9BQuantize", "Klein9BLora")}
    return chosen | {model["name"] for node in nodes for model in node["properties"].get("models", [])}


def test_the_shelf_shows_each_with_its_picture(page):
    shelf = page("listTemplates", folder=PACK_FOLDER, file=str(page.screenshot_path("templates")))
    assert sorted(card["name"] for card in shelf) == [path.stem for path in WORKFLOWS]
    assert all(card["thumbnail"] > 0 for card in shelf)


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_it_opens_without_a_complaint(page, drawing, path):
    page("openTemplate", folder=PACK_FOLDER, name=path.stem)
    page.screenshot(f"{path.stem} {drawing}")
    assert page("listIssues") == {}
    nodes = page("nodes")
    assert [one["type"] for one in nodes] == [one["type"] for one in read(path)["nodes"]]
    assert not any(one["unknown"] for one in nodes)


@by_name
def test_the_frontend_makes_the_api_twin_of_it(page, path):
    page("openTemplate", folder=PACK_FOLDER, name=path.stem)
    assert without_packs(page("apiFormat")) == read(path.parent / "api" / path.name)


class TestWithoutModels:
    @by_name
    def test_it_lists_its_missing_models_and_nothing_else(self, empty_page, path):
        empty_page("openTemplate", folder=PACK_FOLDER, name=path.stem)
        issues = empty_page("listIssues", expected=bool(models_of(path)))
        empty_page.screenshot(f"{path.stem} without models")
        assert set(issues) == ({"missing-model"} if models_of(path) else set())
        assert {line for line in issues.get("missing-model", []) if line.endswith(".safetensors")} == models_of(path)


class TestTheseTestsCanFail:
    """The checks above see what they look for."""

    def test_a_broken_property_raises_a_toast(self, page, complaints):
        workflow = read(WORKFLOWS[0])
        workflow["nodes"][0]["properties"]["ver"] = "main"
        page("load", graph=workflow)
        assert complaints()["toasts"]

    def test_an_unknown_node_is_seen(self, page, complaints):
        workflow = read(WORKFLOWS[0])
        workflow["nodes"][1]["type"] = "Klein9BNobodyHasThis"
        page("load", graph=workflow)
        assert set(page("listIssues", expected=True)) == {"missing-node"} and any(
            one["unknown"] for one in page("nodes")
        )
