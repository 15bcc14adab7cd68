"""Klein 9B References grows an image socket for every image a person connects."""

import pytest

pytestmark = pytest.mark.host


def references(page):
    (node,) = [one for one in page("nodes") if one["type"] == "Klein9BReferences"]
    return node


def sockets(node):
    return [name for name in node["inputs"] if name.startswith("images.")]


def image(number):
    return f"images.image_{number}"


def test_each_image_brings_the_next_socket(page, drawing):
    photographs = [page("placeNode", type="LoadImage", x=300, y=y) for y in (150, 520)]
    node_id = page("placeNode", type="Klein9BReferences", x=900, y=150)
    page("settle")
    assert sockets(references(page)) == [image(1)]
    for number, source in enumerate([*photographs, photographs[0]], 1):
        start = {"id": source, "output": "IMAGE"}
        page("dragLink", **{"from": start, "to": {"id": node_id, "input": image(number)}})
        assert sockets(references(page)) == [image(i) for i in range(1, number + 2)]
    assert references(page)["linked"] == [image(1), image(2), image(3)]
    page.screenshot(f"growing inputs {drawing}")
