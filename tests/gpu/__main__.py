"""make gpu: everything about this pack that only a graphics card can prove, within 25 minutes.

Needs torch and this tree; uses ComfyUI, comfy-kitchen and Triton where they can be imported. Every stage runs in a
process of its own, most telling first, and writes as it goes to benchmarks/<card>.jsonl, of which benchmarks/<card>.md
is made again and again: cut off at any moment, both hold what was done.

Usage: python tests/gpu [--minutes 25] [--stages parity,matrix] [--dry] [--to FOLDER]
       python tests/gpu --table FILE.jsonl
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from pack import ROOT, importable  # noqa: E402

MINUTES = 25.0
# A stage is told to end this much before it is ended.
GRACE = 10.0
ATTEMPTS = 3
RENDER_EVERY = 15.0


def main(arguments: list[str]) -> int:
    importable()
    asked = parsed(arguments)
    why_not = None if asked.table else missing(asked.dry)
    if why_not:
        print(f"make gpu: {why_not}")
        return 0
    if asked.child:
        from gpu.child import main as child

        return child(asked.rest)
    if asked.table:
        from gpu.report import render

        print(render(asked.table))
        return 0
    return Run(asked).go()


def parsed(arguments: list[str]) -> argparse.Namespace:
    if arguments[:1] == ["--child"]:
        return argparse.Namespace(child=True, rest=arguments[1:], dry="--dry" in arguments, table=None)
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="all in all")
    parser.add_argument("--stages", default="", help="some of them, with commas between")
    parser.add_argument("--dry", action="store_true", help="every stage on the processor with a tiny model")
    parser.add_argument("--to", type=Path, default=None, help="the folder to write to, benchmarks/ by default")
    parser.add_argument("--table", type=Path, default=None, help="only print the table of a results file")
    return argparse.Namespace(child=False, rest=[], **vars(parser.parse_args(arguments)))


def missing(dry: bool) -> str | None:
    """Why nothing can be done here, a sentence."""
    if importlib.util.find_spec("torch") is None:
        return f"there is no torch in {sys.executable}. Name a Python that has one: make gpu PYTHON=python3.12"
    if dry:
        return None
    import torch

    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} sees no NVIDIA card on this machine, so there is nothing to prove. "
            "make gpu GPU=--dry shows every stage on the processor"
        )
    return None


class Run:
    """All stages, one after the other."""

    def __init__(self, asked: argparse.Namespace) -> None:
        from gpu.deadline import Deadline
        from gpu.results import RUN, Results
        from gpu.stages import STAGES
        from gpu.stages.environment import card_name

        self.dry = asked.dry
        self.seconds = 60 * asked.minutes
        self.deadline = Deadline(self.seconds)
        wanted = asked.stages.split(",") if asked.stages else [one.name for one in STAGES]
        unknown = [name for name in wanted if name not in {one.name for one in STAGES}]
        if unknown:
            sys.exit(f"make gpu: no stage is called {unknown[0]}: there are {', '.join(s.name for s in STAGES)}")
        self.stages = [one for one in STAGES if one.name in wanted]
        card = card_name(asked.dry)
        folder = asked.to or (ROOT / "build" / "gpu" if asked.dry else ROOT / "benchmarks")
        self.results = Results(folder / f"{file_name(card)}.jsonl")
        self.results.add(RUN, card=card, minutes=asked.minutes, dry=asked.dry)

    def go(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            self._stages()
        except KeyboardInterrupt:
            print("\ncut off; what was done is kept")
        finally:
            self._render()
            print(f"\nresults: {self.results.path}\ntable:   {self.table}")
        return 0

    def _stages(self) -> None:
        from gpu.stages import FILLER

        for number, one in enumerate(self.stages, 1):
            seconds = min(self.seconds * one.share, self.deadline.left)
            if seconds < 5:
                break
            print(f"\n[{number}/{len(self.stages)}] {one.title}, up to {seconds / 60:.1f} min", flush=True)
            self._stage(one.name, seconds)
        if FILLER in {one.name for one in self.stages} and self.deadline.left > 90 and not self.dry:
            print(f"\n[more] the benchmark goes on, up to {self.deadline.left / 60:.1f} min", flush=True)
            self._stage(FILLER, self.deadline.left)

    def _stage(self, name: str, seconds: float) -> None:
        """Again where it broke off and has time left: it goes on behind what it had begun."""
        from gpu.deadline import Deadline

        deadline = Deadline(seconds)
        for _ in range(ATTEMPTS):
            status = self._process(name, deadline)
            if status == 0 or deadline.left < 30:
                break
            print(f"  {name} broke off ({status}); it goes on in a new process", flush=True)

    def _process(self, name: str, deadline: object) -> int:
        left = deadline.left
        command = [sys.executable, str(TESTS / "gpu"), "--child", "--stage", name, "--seconds", str(left - GRACE)]
        command += ["--results", str(self.results.path), *(["--dry"] if self.dry else [])]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            return self._awaited(process, name, deadline)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _awaited(self, process: subprocess.Popen, name: str, deadline: object) -> int:
        rendered = time.monotonic()
        while process.poll() is None:
            if deadline.left < 0:
                self.results.add("left out", what=f"the rest of {name}", why="its time was over")
                print(f"  {name}: its time is over", flush=True)
                return 0
            if time.monotonic() - rendered > RENDER_EVERY:
                self._render()
                rendered = time.monotonic()
            time.sleep(0.2)
        self._render()
        return process.returncode

    @property
    def table(self) -> Path:
        return self.results.path.with_suffix(".md")

    def _render(self) -> None:
        from gpu.report import render

        fresh = self.table.with_suffix(".md.new")
        fresh.write_text(render(self.results.path))
        fresh.replace(self.table)


def file_name(card: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-").lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
