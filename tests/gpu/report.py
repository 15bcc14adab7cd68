"""A results file as one page of Markdown, to be pasted into an issue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .cells import STOCK
from .results import RUN, Results, of_kind
from .scale import FULL, TINY
from .verdicts import MISSED, verdicts

Record = dict[str, Any]


def render(path: Path) -> str:
    records = Results(path).last_run()
    parts = (_head, _targets, _cells, _errors, _buckets, _products, _paths, _parity, _ladder, _left_out)
    return "\n\n".join(text for part in parts if (text := "\n".join(part(records)))) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    yield _line(names)
    yield _line("---" for _ in names)
    yield from (_line(row) for row in rows)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def _head(records: list[Record]) -> Iterator[str]:
    run = next(iter(of_kind(records, RUN)), {"card": "unknown", "dry": False})
    machine = next(iter(of_kind(records, "machine")), {})
    yield f"# {run['card']}"
    yield ""
    if run["dry"]:
        yield "**A dry run on the processor with a tiny model: it shows that it all runs. No number means anything.**"
        yield ""
    facts = [f"{name} {value}" for name, value in machine.items() if name not in ("kind", "card")]
    yield "; ".join(facts) + "." if facts else "The machine was not described before the run was cut off."
    yield ""
    yield "Random weights of Klein 9B's shapes, normal with std 0.02: times and memory mean something, pictures do not."


def _targets(records: list[Record]) -> Iterator[str]:
    yield "## Targets"
    yield ""
    rows = []
    run = next(iter(of_kind(records, RUN)), {"dry": False})
    for one in verdicts(records, (TINY if run["dry"] else FULL).sides[0]):
        value = "" if one.value is None else f"{one.value:.3f}{one.unit}"
        noise = "" if one.noise is None else f"{one.noise:.1%}"
        because = one.because if one.said == MISSED else ""
        rows.append((one.target, f"{one.wanted:g}{one.unit}", value, noise, one.said, because))
    yield from table(("target", "at least", "measured", "noise", "", "where the time is"), rows)


def _cells(records: list[Record]) -> Iterator[str]:
    cells = of_kind(records, "cell")
    if not cells:
        return
    yield "## Times"
    yield ""
    yield (
        "A picture's steps by CUDA events, without text encoder and VAE: medians of interleaved runs. Noise is how far "
        "two times stock were apart in the same cell. Peak is what a step allocates above weights and kept references. "
        "A base picture is its first step and 19 times the median of later ones."
    )
    yield ""
    head = ("size", "references", "picture", "weights", "way", "s", "against stock", "noise", "ms a step", "peak MiB")
    yield from table((*head, ""), (row for cell in cells for row in _rows(cell)))
    yield ""
    yield from (f"- {note}" for note in dict.fromkeys(note for cell in cells for note in cell["notes"]))


def _rows(cell: Record) -> Iterator[tuple[str, ...]]:
    reference = {way["precision"]: way["picture"] for way in cell["ways"] if way["way"] in (STOCK, "eager ops")}
    where = (f"{cell['side']}x{cell['side']}", str(cell["references"]), cell["mode"])
    noise = "" if cell["noise"] is None else f"{cell['noise']:.1%}"
    for way in cell["ways"]:
        base = reference.get(way["precision"])
        against = f"{base / way['picture']:.3f}x" if base else ""
        peak = "" if way["peak"] is None else f"{way['peak'] / 2**20:.0f}"
        numbers = (f"{way['picture']:.4f}", against, noise, f"{1e3 * way['step']:.2f}", peak, _remarks(way))
        yield (*where, way["precision"], way["way"], *numbers)
    for one in cell["failed"]:
        yield (*where, one["precision"], one["way"], "", "", "", "", "", f"failed: {one['why']}")


def _remarks(way: Record) -> str:
    said = [f"compiled in {way['compiling']:.0f} s"] if way["compiling"] else []
    said += [f"left to ComfyUI: {way['left to the host']}"] if way["left to the host"] else []
    said += [f"{way['streamed'] / 2**30:.1f} GiB of weights are streamed"] if way["streamed"] else []
    return "; ".join(said)


def _errors(records: list[Record]) -> Iterator[str]:
    found = of_kind(records, "errors")
    if not found:
        return
    yield "## How far from float32"
    yield ""
    yield (
        "Relative error behind the blocks, of one evaluation with one reference, against float32 with the same weights "
        "(quantised ones taken as what they stand for)."
    )
    yield ""
    rows = []
    for one in found:
        for way, by_block in one["ways"].items():
            worst = max(by_block, key=lambda block: by_block[block])
            last = list(by_block)[-1]
            rows.append((one["precision"], way, f"{by_block[worst]:.2e}", worst, f"{by_block[last]:.2e}"))
    yield from table(("weights", "way", "largest", "behind", "behind the last"), rows)


def _buckets(records: list[Record]) -> Iterator[str]:
    found = of_kind(records, "buckets")
    if not found:
        return
    yield "## Where a step's time goes"
    yield ""
    bandwidth = next((one["bytes_per_second"] for one in of_kind(records, "bandwidth")), None)
    if bandwidth:
        yield f"Milliseconds. By the byte model: at the {bandwidth / 1e9:.0f} GB/s that a plain copy moves here."
        yield ""
    names = list(dict.fromkeys(name for one in found for name in one["ms"]))
    rows = []
    for one in found:
        expected = one["predicted_elementwise_ms"]
        model = "" if expected is None else f"{expected:.2f}"
        times = [f"{one['ms'].get(name, 0):.2f}" for name in names]
        rows.append((one["precision"], one["way"], *times, model, f"{one['launches']:.0f}"))
    yield from table(("weights", "way", *names, "elementwise by the byte model", "launches"), rows)


def _products(records: list[Record]) -> Iterator[str]:
    found = of_kind(records, "products")
    if not found:
        return
    yield "## Plain matrix products of the same shapes"
    yield ""
    rows = [(one["precision"], f"{one['rate'] / 1e12:.1f}", f"{1e3 * one['seconds']:.2f}") for one in found]
    yield from table(("operands", "TF/s", "ms a step"), rows)


def _paths(records: list[Record]) -> Iterator[str]:
    found = of_kind(records, "path")
    if not found:
        return
    yield "## What only a card can try"
    yield ""
    rows = [(one["name"], "ok" if one["passed"] else "FAILED", one["found"]) for one in found]
    yield from table(("", "", "found"), rows)


def _parity(records: list[Record]) -> Iterator[str]:
    found = of_kind(records, "parity")
    if not found:
        return
    yield "## Kernels against their eager ops"
    yield ""
    yield "Last places are representable numbers between the two, levels for int8."
    yield ""
    rows = []
    for one in found:
        about = (one["op"], one["backend"], "exact" if one["exact"] else "fast", one["dtype"])
        failed = ("", "", f"FAILED: {one['error']}") if isinstance(one["error"], str) else None
        rows.append((*about, *(failed or (f"{one['equal']:.4%}", str(one["places"]), f"{one['error']:.1e}"))))
    yield from table(("op", "by", "profile", "dtype", "equal bits", "last places", "relative error"), rows)


def _ladder(records: list[Record]) -> Iterator[str]:
    found = of_kind(records, "ladder")
    if not found:
        return
    yield "## What the ladder chose"
    for one in found:
        yield ""
        yield f"```\n{one['table']}\n```"


def _left_out(records: list[Record]) -> Iterator[str]:
    found, waiting = of_kind(records, "left out"), of_kind(records, "waiting")
    unreached = waiting[-1]["cells"] if waiting else []
    if not found and not unreached:
        return
    yield "## Left out"
    yield ""
    yield from (f"- {one['what']}: {one['why']}" for one in found)
    if unreached:
        yield f"- {len(unreached)} cells of the matrix: there was no time for them. The first is {unreached[0]}"
