"""What a stage is given, and what it may say."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .deadline import Deadline
from .results import Results
from .scale import FULL, TINY, Scale


class Overran(BaseException):
    """A part took longer than it was given. No Exception: compilers catch those and go on."""


@dataclass
class Context:
    """Where a stage runs, and where it writes.

    Attributes:
        dry: on a processor with a tiny model: proves the logic, and says nothing about speed.
        no_host: why ComfyUI cannot be imported, None where it can.
    """

    results: Results
    deadline: Deadline
    dry: bool
    no_host: str | None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def dtype(self) -> torch.dtype:
        """What bf16 is called here: a processor is too slow in it."""
        return torch.float32 if self.dry else torch.bfloat16

    @property
    def scale(self) -> Scale:
        return TINY if self.dry else FULL

    def add(self, kind: str, **values: Any) -> None:
        self.results.add(kind, **values)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def skip(self, what: str, why: str) -> None:
        """Said, and written down."""
        self.say(f"  left out: {what}: {why}")
        self.add("left out", what=what, why=why)


def first_line(error: BaseException) -> str:
    """An error in one line: compilers answer with pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def is_lost(error: BaseException) -> bool:
    """Whether the device can do nothing more in this process."""
    words = str(error).lower()
    told = ("illegal memory access", "device-side assert", "launch failure", "misaligned address", "unspecified launch")
    return any(each in words for each in told)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends what runs inside once that long has passed; in a thread, and where there is no such signal, it only runs.

    Raises:
        Overran: it was ended.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_: Any) -> None:
        raise Overran(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
