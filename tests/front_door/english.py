"""The English locale, read off the schemas as the frontend reads them.

The frontend looks up nodeDefs.<node id>.inputs.<name>, dots as underscores, and outputs by index. Its own text for the
sockets of a growing input comes from here alone: the schema's tooltip does not reach them.

Usage: english.py   (rewrites locales/en/nodeDefs.json)
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AUTOGROW = "COMFY_AUTOGROW_V3"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"


def node_infos() -> dict[str, dict[str, Any]]:
    """What /object_info says of each node; the host must have been entered."""
    from klein9b.nodes import comfy_entrypoint

    nodes = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in nodes}


def english(info: dict[str, Any]) -> dict[str, Any]:
    """One node's entry of nodeDefs.json."""
    sockets = enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": dict(_inputs(info["input"], prefix="")),
        "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in sockets},
    }


def _inputs(groups: dict[str, dict[str, Any]], prefix: str) -> Iterator[tuple[str, dict[str, str]]]:
    for group in ("required", "optional"):
        for name, (kind, options) in groups.get(group, {}).items():
            yield from _input(name, kind, options, prefix)


def _input(name: str, kind: Any, options: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, str]]]:
    if kind == AUTOGROW:
        template = options["template"]
        ((_, one),) = (template["input"].get("required") or template["input"]["optional"]).values()
        yield from ((f"{prefix}{name}_{each}", _words(each, one)) for each in template["names"])
        return
    yield f"{prefix}{name}", _words(name, options)
    if kind == DYNAMIC_COMBO:
        for option in options["options"]:
            yield from _inputs(option["inputs"], prefix=f"{prefix}{name}_")


def _words(name: str, options: dict[str, Any]) -> dict[str, str]:
    return {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}


def write(path: Path, definitions: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(definitions, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from pack import importable

    from host.checkout import PACK, find_checkout
    from host.inprocess import enter

    importable()
    enter(find_checkout())
    definitions = {node_id: english(info) for node_id, info in node_infos().items()}
    write(PACK / "locales" / "en" / "nodeDefs.json", definitions)


if __name__ == "__main__":
    main()
