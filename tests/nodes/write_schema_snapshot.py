"""Writes schema_snapshot.json: every node's inputs, outputs, category and name, as saved workflows rely on them.

A name that the last snapshot had and the nodes no longer have moves to its "retired" list, where it stays: the
contract test then asks for a NodeReplace that leads from it.

Usage: python tests/nodes/write_schema_snapshot.py
"""

from __future__ import annotations

import asyncio
import json
import sys
import types
from pathlib import Path
from unittest import mock

PACK = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("schema_snapshot.json")


def import_pack() -> None:
    """What tests/conftest.py and tests/nodes/conftest.py do for pytest."""
    sys.path[0] = str(PACK / "tests")
    from host.checkout import find_checkout
    from host.inprocess import enter

    checkout = find_checkout()
    sys.modules["klein9b"] = pack = types.ModuleType("klein9b")
    pack.__path__ = [str(PACK)]
    enter(checkout)


def node_classes() -> list[type]:
    from klein9b.nodes import comfy_entrypoint

    return asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())


def registered_replacements() -> list:
    """The NodeReplace values that the extension registers when the host loads it."""
    from comfy_api.v0_0_2 import ComfyAPI

    from klein9b.nodes import comfy_entrypoint

    registered = []

    async def register(_self: object, node_replace: object) -> None:
        registered.append(node_replace)

    async def load() -> None:
        await (await comfy_entrypoint()).on_load()

    with mock.patch.object(ComfyAPI.NodeReplacement, "register", register):
        asyncio.run(load())
    return registered


def without_tooltips(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_tooltips(one) for key, one in value.items() if key != "tooltip"}
    return [without_tooltips(one) for one in value] if isinstance(value, list | tuple) else value


def flatten(groups: dict, prefix: str = "") -> dict[str, dict]:
    """Inputs by name in the order of their widgets; what only an option shows is named input[option].name."""
    flat = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            about = {"type": kind, "required": group == "required", **(options[0] if options else {})}
            flat[prefix + name] = about
            if kind == "COMFY_DYNAMICCOMBO_V3":
                choices, about["options"] = about["options"], [choice["key"] for choice in about["options"]]
                for choice in choices:
                    flat |= flatten(choice["inputs"], f"{prefix}{name}[{choice['key']}].")
    return flat


def describe(info: dict) -> dict:
    """What a saved workflow or an API call depends on, of one node's object_info."""
    outputs = enumerate(zip(info["output_name"], info["output"], info["output_is_list"], strict=True))
    return {
        "display_name": info["display_name"],
        "category": info["category"],
        "output_node": info["output_node"],
        "inputs": flatten(without_tooltips(info["input"])),
        "outputs": {f"{i} {name}": {"type": kind, "is_list": is_list} for i, (name, kind, is_list) in outputs},
    }


def current_nodes() -> dict[str, dict]:
    """Every node by id, with file lists replaced by their folder's name."""
    with mock.patch("folder_paths.get_filename_list", lambda folder: [f"<files in {folder}>"]):
        return {node.__name__: describe(node.GET_NODE_INFO_V1()) for node in node_classes()}


def names(nodes: dict[str, dict]) -> set[str]:
    """Node ids, and node_id:input for every input."""
    return set(nodes) | {f"{node}:{name}" for node, about in nodes.items() for name in about["inputs"]}


def lost_names(before: dict, nodes: dict[str, dict]) -> set[str]:
    """What was once a name, kept in the retired list or in the last snapshot, and is one no more."""
    gone = set(before["retired"]) | names(before["nodes"])
    lost = gone - names(nodes)
    return {name for name in lost if ":" not in name or name.split(":")[0] not in lost}


def to_text(value: object, depth: int = 0) -> str:
    """JSON with one line an input, so that a diff of it reads."""
    if not isinstance(value, dict) or depth == 4 or not value:
        return json.dumps(value)
    pad = " " * (depth + 1)
    rows = [f"{pad}{json.dumps(key)}: {to_text(one, depth + 1)}" for key, one in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{pad[:-1]}}}"


def read_snapshot() -> dict:
    return json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {"nodes": {}, "retired": []}


def main() -> None:
    import_pack()
    nodes = current_nodes()
    retired = sorted(lost_names(read_snapshot(), nodes))
    SNAPSHOT.write_text(to_text({"nodes": nodes, "retired": retired}) + "\n")


if __name__ == "__main__":
    main()
