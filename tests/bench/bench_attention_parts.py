"""Attention by parts beside one attention over the same keys: interleaved in one process, ratios of the fastest.

On a card at Klein 9B's shapes; on a processor a quarter of its heads, and seconds of its own, which others use too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from klein9b.kernels.eager.attention_parts import Part, attention_parts

TEXT, REFERENCES, HEAD_DIM, ROUNDS = 512, 2, 128, 5
# Tokens of the picture, and of each reference.
PICTURE = {"cpu": 1024, "cuda": 4096}
HEADS = {"cpu": 8, "cuda": 32}
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16, torch.float16)}
LIMIT = 1.1

Row = dict[str, Any]
Way = Callable[[], object]


def main() -> list[Row]:
    """Rows of {"name", "value", "unit", "limit"}; a value over its limit is a regression, None is no limit."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # One thread: a processor's seconds of its own then hold no waiting of one thread for another.
    torch.set_num_threads(1)
    rows = [row for dtype in DTYPES[device] for row in rows_of(device, dtype)]
    if device == "cuda":
        return rows
    why = "no CUDA device on this machine"
    return [*rows, {"name": "the same at 9B's size on a GPU", "value": None, "unit": "", "limit": None, "why": why}]


@torch.inference_mode()
def rows_of(device: str, dtype: torch.dtype) -> list[Row]:
    one, *others = fastest(ways(device, dtype), device).items()
    named = f"{str(dtype).removeprefix('torch.')} on {device}"
    first = {"name": f"{one[0]}, {named}", "value": one[1], "unit": "s", "limit": None}
    return [
        first,
        *(
            {"name": f"{name} / one attention, {named}", "value": seconds / one[1], "unit": "x", "limit": LIMIT}
            for name, seconds in others
        ),
    ]


def ways(device: str, dtype: torch.dtype) -> dict[str, Way]:
    """One attention, and parts of the same keys: text and picture, then each reference."""
    own = TEXT + PICTURE[device]
    tokens = own + REFERENCES * PICTURE[device]
    middle = own + PICTURE[device]
    query, key, value = (drawn(tokens, device, dtype, seed) for seed in range(3))
    # The references' own queries keep their weight.
    each = torch.zeros(tokens, device=device)
    each[:own] = math.log(2)
    seers = torch.arange(own, device=device)
    scenes = {
        "one part weighted": [Part(slice(0, middle)), Part(slice(middle, None), math.log(2))],
        "three parts": [Part(slice(0, own)), Part(slice(own, middle), 0.5), Part(slice(middle, None), -0.5)],
        "three parts, weights by query": [
            Part(slice(0, own)),
            Part(slice(own, middle), each),
            Part(slice(middle, None), -each),
        ],
        "three parts, one for some": [
            Part(slice(0, own)),
            Part(slice(own, middle)),
            Part(slice(middle, None), 0.5, seers),
        ],
    }
    several = {name: lambda parts=parts: attention_parts(query, key, value, parts) for name, parts in scenes.items()}
    return {"one attention": lambda: scaled_dot_product_attention(query, key, value), **several}


def drawn(tokens: int, device: str, dtype: torch.dtype, seed: int) -> Tensor:
    """As the blocks have them: in memory a token's heads lie side by side."""
    drawn = torch.randn(1, tokens, HEADS[device], HEAD_DIM, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype).transpose(1, 2)


def fastest(ways: dict[str, Way], device: str) -> dict[str, float]:
    """The least seconds of each, in turn and back again: noise only ever adds."""
    times: dict[str, list[float]] = {name: [seconds_of(way, device)] for name, way in ways.items()}
    for turn in range(ROUNDS):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            times[name].append(seconds_of(ways[name], device))
    return {name: min(some[1:]) for name, some in times.items()}


def seconds_of(way: Way, device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        way()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    torch.cuda.synchronize()
    return time.perf_counter() - start
