"""Every node is found by its display name and by each search alias, and can be put on the canvas from there."""

import pytest

from host.checkout import PACK

pytestmark = pytest.mark.host

NODES = sorted(path.stem for path in (PACK / "nodes" / "web" / "docs").glob("*.md"))
FREE_SPOT = {"x": 700, "y": 400}


def test_every_node_is_looked_for(pack_nodes):
    assert sorted(pack_nodes) == NODES


@pytest.mark.parametrize("node_id", NODES)
def test_it_is_dragged_from_the_library(page, pack_nodes, node_id):
    title, aliases = (pack_nodes[node_id][key] for key in ("display_name", "search_aliases"))
    assert page("notFoundInLibrary", title=title, queries=aliases) == []
    assert page("dragFromLibrary", title=title, query=title, **FREE_SPOT) == [node_id]


@pytest.mark.parametrize("node_id", NODES)
def test_it_is_added_by_search(page, pack_nodes, node_id):
    title = pack_nodes[node_id]["display_name"]
    assert page("addBySearch", title=title, query=title, **FREE_SPOT) == [node_id]


def test_a_wrong_word_does_not_find_it(page):
    title = "Klein 9B Scheduler"
    assert page("notFoundInLibrary", title=title, queries=[title, "flux2 scheduler", "uncrop"]) == ["uncrop"]
