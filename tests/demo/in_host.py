"""Every shipped workflow in a headless ComfyUI on stand-in weights."""

import json
import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image

import standins
from host.checkout import PACK
from host.server import Host

from .say import say, table

PHOTOGRAPHS = {
    "image_1.png": "astronaut",
    "image_2.png": "coffee",
    "image_3.png": "chelsea",
    "image_4.png": "rocket",
}
SIDE = 256
MEGAPIXELS = 0.0625


def run(checkout: Path, output: Path) -> None:
    say(f"ComfyUI at {checkout}")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        say("writing stand-in weights: Klein's real tensor names at small dims, random numbers")
        standins.write_models(base / "models")
        standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=SIDE)
        say("starting ComfyUI on CPU with this pack")
        with Host(checkout, base) as host:
            rows = [_run_one(host, path, output) for path in sorted((PACK / "workflows").glob("*.json"))]
    table(("workflow", "size", "steps", "seconds", "file"), rows)
    say("the weights are random, so the pictures are texture: they show that every node runs, not what Klein paints")


def _run_one(host: Host, path: Path, output: Path) -> tuple[str, ...]:
    say(f"running {path.stem}")
    graph = _on_photographs(json.loads((path.parent / "api" / path.name).read_text()))
    start = time.perf_counter()
    entry = host.run(graph)
    seconds = time.perf_counter() - start
    (saved,) = host.pictures(entry)
    target = output / f"{path.stem}.png"
    shutil.copy(saved, target)
    with Image.open(target) as picture:
        size = f"{picture.width}x{picture.height}"
    return path.stem, size, _steps(graph), f"{seconds:.1f}", str(target.relative_to(PACK))


def _inputs(graph: dict, kind: str) -> list[dict]:
    return [one["inputs"] for one in graph.values() if one["class_type"] == kind]


def _on_photographs(graph: dict) -> dict:
    for name, load in zip(PHOTOGRAPHS, _inputs(graph, "LoadImage"), strict=False):
        load["image"] = name
    for references in _inputs(graph, "Klein9BReferences"):
        references["megapixels"] = MEGAPIXELS
    return graph


def _steps(graph: dict) -> str:
    return "+".join(str(inputs["steps"]) for inputs in _inputs(graph, "Klein9BScheduler"))
