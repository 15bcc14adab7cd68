"""What pytest says at the end: how long each part of the suite took, and what was skipped for want of what."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LINE = "{:<14} {:>7} {:>7} {:>7} {:>9}"


class Summary:
    """Listens to every report, those of other processes too. Seconds are spent in the tests, not on the wall."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: Counter[str] = Counter()
        self._wants: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report) -> None:
        part = part_of(report.nodeid)
        self._seconds[part] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[part][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self._wants[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter) -> None:
        terminalreporter.section("parts")
        terminalreporter.write_line(LINE.format("part", "passed", "failed", "skipped", "seconds"))
        for part, seconds in self._seconds.most_common():
            counts = (self._outcomes[part][outcome] for outcome in ("passed", "failed", "skipped"))
            terminalreporter.write_line(LINE.format(part, *counts, f"{seconds:.1f}"))
        for want, count in self._wants.most_common():
            terminalreporter.write_line(f"skipped {count}: {want}")


def part_of(nodeid: str) -> str:
    """The folder below tests/ that a test is in; "house" for the files beside them."""
    below = Path(nodeid.split("::")[0]).parts
    return below[1] if len(below) > 2 else "house"
