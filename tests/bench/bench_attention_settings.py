"""What attention by parts costs: a run with strengths, and one with a negative prompt, against the same run without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench.bench_reference_cache import (
    GRID,
    Inputs,
    Row,
    _meta_attention,
    absent,
    klein_9b,
    meta_inputs,
    random_model,
)
from torch.utils.flop_counter import FlopCounterMode

from host.checkout import NoHost, find_checkout
from host.edits import edit, normal
from host.inprocess import enter

MOST_FLOPS = 1.15
MOST_SECONDS = 1.1
REFERENCES = (0, 1, 2, 4)
STEPS = 2


def main(*, rounds: int = 7) -> list[Row]:
    """Rows as of `bench_reference_cache`."""
    try:
        checkout = find_checkout()
    except NoHost as reason:
        return [absent("attention settings", str(reason))]
    enter(checkout)
    import comfy.cli_args

    on_card = torch.cuda.is_available()
    comfy.cli_args.args.cpu = not on_card
    rows = [row(f"negative prompt, FLOPs / stock, {n} references", flops(n, negative), MOST_FLOPS) for n in REFERENCES]
    rows += [row("a cast of two, FLOPs / stock, 2 references", flops(2, lambda given: cast_of_two()), 1.0)]
    if on_card:
        return [*rows, *seconds(random_model("cuda", torch.bfloat16), GRID, rounds, torch.cuda.get_device_name())]
    small = random_model("cpu", torch.float32, hidden=512, doubles=1, singles=3)
    return [*rows, *seconds(small, 16, rounds, "CPU stand-in"), absent("the same at 9B's shapes on a GPU", "no GPU")]


def row(name: str, value: float, limit: float | None) -> Row:
    return {"name": name, "value": value, "unit": "x", "limit": limit}


def flops(references: int, asked: Callable[[Inputs], Any]) -> float:
    """Of one evaluation at 1024x1024 with references of the same size, with settings / without."""
    model, given = klein_9b("meta", torch.bfloat16), meta_inputs(references)
    with torch.inference_mode():
        plain = _counted(lambda: given.ask(model, {"optimized_attention_override": _meta_attention}))
        return _counted(lambda: given.ask(model, with_settings(given, asked(given)))) / plain


def negative(given: Inputs) -> Any:
    from klein9b.klein.influence import AttentionSettings, Negative

    return AttentionSettings(negative=Negative(given.context, 5.0))


def cast_of_two() -> Any:
    """Image 1 on the left and image 2 on the right, 40 words each."""
    from klein9b.klein.influence import AttentionSettings, Box, Cast

    halves = (1, Box(right=0.5)), (2, Box(left=0.5))
    casts = (Cast(((60 * i, 60 * i + 40),), 512, frozenset({i}), half) for i, half in halves)
    return AttentionSettings(casts=tuple(casts))


def with_settings(given: Inputs, settings: Any) -> dict[str, Any]:
    """Transformer options as the host's sampling would hand them to the model."""
    from klein9b.nodes.host.attention_parts import act_on

    options = {"optimized_attention_override": _meta_attention, "sigmas": torch.ones(1)}
    cond = {"c_crossattn": given.context, "ref_latents": given.references}
    act_on(options, settings, given.x, cond, float, set())
    return options


def _counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def seconds(model: Any, grid: int, rounds: int, where: str) -> Iterator[Row]:
    """Medians of ratios to the stock run of the same round; a second stock run says how much the machine wavers."""
    ways = ways_to_run(model, grid)
    ratios: dict[str, list[float]] = {name: [] for name in ways if name != "stock"}
    for turn in range(rounds + 1):
        taken = {name: _timed(ways[name]) for name in list(ways)[:: -1 if turn % 2 else 1]}
        for name, values in ratios.items():
            values.extend([taken[name] / taken["stock"]] if turn else [])
    again = statistics.median(ratios.pop("stock again"))
    noise = abs(again - 1)
    yield row(f"stock again / stock, 2 references, {where}", again, None)
    for name, values in ratios.items():
        limit = MOST_SECONDS + noise if name in LIMITED else None
        yield row(f"{name} / stock, 2 references, {where}", statistics.median(values), limit)


# A cast's and a negative's small groups weigh more in small shapes; their limits are on FLOPs at full size.
LIMITED = ("a strength on one", "a place for one", "a quarter of one taken out")


def ways_to_run(model: Any, grid: int) -> dict[str, Callable[[], object]]:
    from klein9b.klein.influence import AttentionSettings, Box, Influence, Negative

    kept = torch.ones(grid, grid, dtype=torch.bool)
    kept[: grid // 2, : grid // 2] = False
    references = [normal(1, 128, grid, grid, seed=i) for i in range(2)]
    noise, words = normal(1, 128, grid, grid, seed=99), normal(1, 512, 12288, seed=98)

    def run(settings: AttentionSettings | None = None) -> Callable[[], object]:
        return lambda: edit(model, references, noise=noise, steps=STEPS, settings=settings)

    return {
        "stock": run(),
        "stock again": run(),
        "a strength on one": run(AttentionSettings({2: Influence(2.0)})),
        "a place for one": run(AttentionSettings({2: Influence(1.0, Box(right=0.5))})),
        "a cast of two": run(cast_of_two()),
        "a quarter of one taken out": run(AttentionSettings({1: Influence(kept=kept)})),
        "a negative prompt": run(AttentionSettings(negative=Negative(words, 5.0))),
    }


def _timed(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
