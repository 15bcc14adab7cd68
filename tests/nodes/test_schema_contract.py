"""Saved workflows keep working: a node's names, types, defaults and ranges change only on purpose."""

import copy
import difflib

import pytest
from write_schema_snapshot import (
    current_nodes,
    lost_names,
    read_snapshot,
    registered_replacements,
    to_text,
)

pytestmark = pytest.mark.host

ON_PURPOSE = """
The nodes differ from tests/nodes/schema_snapshot.json, so workflows people saved may break:

{diff}

If that is meant, run: python tests/nodes/write_schema_snapshot.py
A renamed node or input also needs a NodeReplace in the extension's on_load (the next test says for which)."""

NO_WAY_BACK = """
Saved workflows use these names and nothing leads from them to today's nodes: {lost}.
Register a NodeReplace for each in the extension's on_load: old_node_id the node's, and for an input an
input_mapping with its old_id. A name that no published version ever had may be deleted from "retired" by hand."""


@pytest.fixture(scope="module")
def nodes(comfy_host):
    return current_nodes()


def unreplaced(lost, replacements):
    """Of the lost names, those that no NodeReplace leads from."""
    known = {one.old_node_id for one in replacements}
    for one in replacements:
        known |= {f"{one.old_node_id}:{pair['old_id']}" for pair in one.input_mapping or [] if "old_id" in pair}
    return sorted(name for name in lost if plain(name) not in known)


def plain(name):
    """sampler[res_2s].eta as a prompt has it: sampler.eta."""
    node, _, dotted = name.partition(":")
    return node + (f":{'.'.join(part.split('[')[0] for part in dotted.split('].'))}" if dotted else "")


def difference(before, after):
    lines = [to_text({"nodes": nodes}).splitlines() for nodes in (before, after)]
    return "\n".join(difflib.unified_diff(*lines, "published", "now", n=1, lineterm=""))


def test_the_nodes_are_as_published(nodes):
    diff = difference(read_snapshot()["nodes"], nodes)
    assert not diff, ON_PURPOSE.format(diff=diff)


def test_every_retired_name_leads_to_a_node(nodes):
    lost = unreplaced(lost_names(read_snapshot(), nodes), registered_replacements())
    assert not lost, NO_WAY_BACK.format(lost=", ".join(lost))


class TestTheContract:
    """What it would say of changes that break saved workflows."""

    @pytest.fixture
    def changed(self, nodes):
        return copy.deepcopy(nodes)

    def before(self, nodes):
        return {"nodes": nodes, "retired": []}

    def test_a_changed_range_is_one_line_of_the_diff(self, nodes, changed):
        changed["Klein9BScheduler"]["inputs"]["steps"]["max"] = 50
        added = [line for line in difference(nodes, changed).splitlines() if line.startswith("+ ")]
        assert len(added) == 1 and '"steps"' in added[0] and '"max": 50' in added[0]

    def test_the_order_of_widgets_counts(self, nodes, changed):
        inputs = changed["Klein9BScheduler"]["inputs"]
        inputs["steps"] = inputs.pop("steps")
        assert difference(nodes, changed)

    def test_a_renamed_node_needs_one_replacement(self, nodes, changed):
        changed["Klein9BSteps"] = changed.pop("Klein9BScheduler")
        lost = lost_names(self.before(nodes), changed)
        assert unreplaced(lost, []) == ["Klein9BScheduler"]
        assert not unreplaced(lost, [io().NodeReplace("Klein9BSteps", "Klein9BScheduler")])

    def test_a_renamed_input_needs_a_mapping(self, nodes, changed):
        inputs = changed["Klein9BSampler"]["inputs"]
        inputs["sampler[res_2s].noise"] = inputs.pop("sampler[res_2s].eta")
        lost = lost_names(self.before(nodes), changed)
        assert unreplaced(lost, []) == ["Klein9BSampler:sampler[res_2s].eta"]
        mapping = [{"new_id": "sampler.noise", "old_id": "sampler.eta"}]
        replacement = io().NodeReplace("Klein9BSampler", "Klein9BSampler", input_mapping=mapping)
        assert not unreplaced(lost, [replacement])

    def test_a_retired_name_is_never_forgotten(self, nodes):
        assert lost_names({"nodes": nodes, "retired": ["Klein9BOld"]}, nodes) == {"Klein9BOld"}

    def test_what_on_load_registers_is_seen(self, monkeypatch):
        from comfy_api.v0_0_2 import ComfyAPI

        from klein9b import nodes

        async def on_load(self):
            await ComfyAPI().node_replacement.register(io().NodeReplace("Klein9BSampler", "Old"))

        monkeypatch.setattr(nodes.Klein9BExtension, "on_load", on_load)
        assert [one.old_node_id for one in registered_replacements()] == ["Old"]


def io():
    from comfy_api.v0_0_2 import io

    return io
