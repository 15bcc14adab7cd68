"""One benchmark in a process of its own: what it leaves in memory is not another's."""

from __future__ import annotations

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from pack import importable


def rows_of(name: str) -> list[dict]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), importable) as own:
        return own.submit(_rows, name).result()


def _rows(name: str) -> list[dict]:
    return list(importlib.import_module(f"bench.{name}").main())
