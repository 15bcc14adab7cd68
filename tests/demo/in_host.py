"""Every shipped workflow in a headless ComfyUI, on stand-in weights and a Segmind on loopback."""

import json
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image

import standins
from fake_segmind import Behaviour, FakeSegmind
from host.checkout import PACK
from host.server import Host
from host.workflow_files import PAINTED
from segmind_host import environment, write_key

from .say import say, table

PHOTOGRAPHS = {
    "image_1.png": "astronaut",
    "image_2.png": "coffee",
    "image_3.png": "chelsea",
    "image_4.png": "rocket",
    PAINTED: "astronaut painted over",
    "photographs/cat.png": "chelsea",
    "photographs/rocket.png": "rocket",
}
SIDE = 256
MEGAPIXELS = 0.0625
IN_TILES = 0.08  # megapixels, of the workflow for large pictures: four tiles
SEGMIND = Behaviour(queue_seconds=1.0, run_seconds=4.0)


def run(checkout: Path, output: Path) -> None:
    say(f"ComfyUI at {checkout}")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        say("writing stand-in weights: Klein's real tensor names at small dims, random numbers")
        standins.write_models(base / "models")
        standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=SIDE)
        with FakeSegmind(SEGMIND) as segmind:
            write_key(base, segmind.key)
            say("starting ComfyUI on CPU with this pack, and an imitation of Segmind on loopback")
            with Host(checkout, base, environment=environment(segmind)) as host:
                rows = [
                    row for path in sorted((PACK / "workflows").glob("*.json")) for row in _run_one(host, path, output)
                ]
            charges = segmind.ledger
    table(("workflow", "size", "steps", "seconds", "file"), rows)
    say("the weights are random, so the pictures are texture: they show that every node runs, not what Klein paints")
    say(
        f"the imitation of Segmind charged {len(charges)} jobs, ${sum(charge.amount for charge in charges):.4f}: two of"
        " the workflows ask for the same picture, and the second got what the first had paid for"
    )


def _run_one(host: Host, path: Path, output: Path) -> list[tuple[str, ...]]:
    """A row for each picture or file; shows the receipts of those that came from Segmind."""
    say(f"running {path.stem}")
    graph = _on_photographs(json.loads((path.parent / "api" / path.name).read_text()))
    start = time.perf_counter()
    entry = host.run(graph)
    seconds = f"{time.perf_counter() - start:.1f}"
    for receipt in _receipts(entry):
        say(f"receipt: {receipt}")
    if _inputs(graph, "Klein9BQuantize"):
        return [(path.stem, "", "", seconds, file) for file in _made_files(entry)]
    for report in _reports(graph, entry):
        say(f"report: {report}")
    saved = host.pictures(entry)
    names = [path.stem if len(saved) == 1 else f"{path.stem} {i}" for i in range(1, len(saved) + 1)]
    return [_row(name, picture, _steps(graph), seconds, output) for name, picture in zip(names, saved, strict=True)]


def _row(name: str, saved: Path, steps: str, seconds: str, output: Path) -> tuple[str, ...]:
    target = output / f"{name}.png"
    shutil.copy(saved, target)
    with Image.open(target) as picture:
        size = f"{picture.width}x{picture.height}"
    return name, size, steps, seconds, str(target.relative_to(PACK))


def _texts(entry: dict) -> list[str]:
    return [text for node in entry["outputs"].values() for text in node.get("text", [])]


def _made_files(entry: dict) -> list[str]:
    """The first line of each report of Klein 9B Quantize: the file's name and its size."""
    return [text.partition("\n")[0] for text in _texts(entry)]


def _reports(graph: dict, entry: dict) -> list[str]:
    """Those of Klein 9B Edit Report, a line each."""
    return [text.replace("\n", "; ") for text in _texts(entry)] if _inputs(graph, "Klein9BEditReport") else []


def _receipts(entry: dict) -> list[str]:
    """One line a picture."""
    told = [json.loads(text) for text in _texts(entry) if text.startswith(("{", "["))]
    return [json.dumps(one) for receipt in told for one in (receipt if isinstance(receipt, list) else [receipt])]


def _inputs(graph: dict, kind: str) -> list[dict]:
    return [one["inputs"] for one in graph.values() if one["class_type"] == kind]


def _on_photographs(graph: dict) -> dict:
    for name, load in zip(PHOTOGRAPHS, _inputs(graph, "LoadImage"), strict=False):
        load["image"] = name
    for inpaint in _inputs(graph, "Klein9BInpaint"):
        if mask := inpaint.get("mask"):
            graph[mask[0]]["inputs"]["image"] = PAINTED
    for sized in _inputs(graph, "Klein9BReferences") + _inputs(graph, "Klein9BInpaint"):
        for name in sized.keys() & {"megapixels", "aspect_ratio.megapixels"}:
            sized[name] = MEGAPIXELS
    for scaled in _inputs(graph, "ImageScaleToTotalPixels"):
        scaled["megapixels"] = IN_TILES
    for tiles in _inputs(graph, "Klein9BTiles"):
        tiles |= {"tile_size": 256, "overlap": 64}
    return graph


def _steps(graph: dict) -> str:
    kinds = ("Klein9BScheduler", "SegmindRemote")
    return "+".join(str(inputs["steps"]) for kind in kinds for inputs in _inputs(graph, kind))
