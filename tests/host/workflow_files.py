"""The shipped workflows, and how they are made small enough for a CPU."""

import json

from host.checkout import PACK

WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
GRAPHS = [path for path in WORKFLOWS if not path.stem.endswith((" 8 GB", " 12 GB", " 24 GB"))]  # one card for all
PAINTED = "painted.png"
PHOTOGRAPHS = ("image_1.png", "image_2.png", "image_3.png", "image_4.png")


def read(path):
    return json.loads(path.read_text())


def all_nodes(workflow):
    """Those on the canvas, and those folded into one of them."""
    folded = workflow.get("definitions", {}).get("subgraphs", [])
    return workflow["nodes"] + [one for subgraph in folded for one in subgraph["nodes"]]


def twin(path):
    """The same graph in API format."""
    return path.parent / "api" / path.name


def nodes_of(graph, kind):
    return [one for one in graph.values() if one["class_type"] == kind]


def made_small(graph, *, steps=4):
    """The same graph on the tests' photographs, at sizes a CPU samples in seconds."""
    for photograph, load in zip(PHOTOGRAPHS, nodes_of(graph, "LoadImage"), strict=False):
        load["inputs"]["image"] = photograph
    for inpaint in nodes_of(graph, "Klein9BInpaint"):
        if mask := inpaint["inputs"].get("mask"):
            graph[mask[0]]["inputs"]["image"] = PAINTED
    for kind, area in (("Klein9BReferences", 0.06), ("Klein9BInpaint", 0.06), ("ImageScaleToTotalPixels", 0.08)):
        for sized in nodes_of(graph, kind):
            for name in sized["inputs"].keys() & {"megapixels", "aspect_ratio.megapixels"}:
                sized["inputs"][name] = area
    for tiles in nodes_of(graph, "Klein9BTiles"):
        tiles["inputs"] |= {"tile_size": 256, "overlap": 64}
    for sigmas in nodes_of(graph, "Klein9BScheduler"):
        sigmas["inputs"]["steps"] = min(steps, sigmas["inputs"]["steps"])
    return graph
