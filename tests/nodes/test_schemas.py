"""What a person reads on every node is there, and the shapes the host and Manager rely on hold."""

import asyncio
import re

import pytest

CATEGORY_ROOT = "Klein 9B"


@pytest.fixture(scope="module")
def node_classes(comfy_host):
    from klein9b.nodes import comfy_entrypoint

    extension = asyncio.run(comfy_entrypoint())
    return asyncio.run(extension.get_node_list())


def schemas(node_classes):
    return [node.define_schema() for node in node_classes]


def all_inputs(schema):
    """Every input a person can see, options of dynamic inputs included."""
    for one in schema.inputs:
        yield from one.get_all() if hasattr(one, "get_all") else [one]


def test_ids_are_class_names(node_classes):
    for node in node_classes:
        assert node.define_schema().node_id == node.__name__


def test_every_node_inherits_directly(node_classes):
    """Manager's scanner sees only classes whose direct base is ComfyNode."""
    from comfy_api.v0_0_2 import io

    assert all(node.__bases__ == (io.ComfyNode,) for node in node_classes)


def test_every_node_explains_itself(node_classes):
    for schema in schemas(node_classes):
        assert schema.category.split("/")[0] == CATEGORY_ROOT
        assert len(schema.description) > 40 and schema.description.endswith(".")
        assert len(schema.search_aliases) >= 3
        assert schema.display_name


def test_every_socket_has_a_tooltip(node_classes):
    for schema in schemas(node_classes):
        silent = [one.id for one in all_inputs(schema) if not one.tooltip]
        silent += [one.display_name for one in schema.outputs if not one.tooltip]
        assert not silent, f"{schema.node_id}: no tooltip on {silent}"


def test_every_output_is_named(node_classes):
    for schema in schemas(node_classes):
        assert all(one.display_name for one in schema.outputs), schema.node_id


def test_schemas_are_cheap_and_pure(node_classes):
    """The host asks again on every /object_info."""
    for node in node_classes:
        first, second = node.GET_NODE_INFO_V1(), node.GET_NODE_INFO_V1()
        assert first == second


def test_every_node_has_a_help_page(node_classes):
    from host.checkout import PACK

    for node in node_classes:
        page = PACK / "nodes" / "web" / "docs" / f"{node.__name__}.md"
        assert page.is_file(), f"{page.name} is missing"
        text = page.read_text(encoding="utf-8")
        asked = {re.sub(r"_\d+$", "_1", one.id) for one in all_inputs(node.define_schema())}
        silent = [name for name in asked if not re.search(rf"\b{re.escape(name)}\b", text)]
        assert not silent, f"{page.name} does not speak of {silent}"
