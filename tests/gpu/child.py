"""One stage in a process of its own: a crash of the card's context, or a hang, ends that stage alone."""

from __future__ import annotations

import argparse
import os
import threading
import time
import traceback
from pathlib import Path

from .context import Context
from .deadline import Deadline
from .results import Results
from .stages import stage


def main(arguments: list[str]) -> int:
    """Exit status 0, or 1 where the stage broke off."""
    asked = parsed(arguments)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    deadline = Deadline(asked.seconds)
    from .comfy_here import entered

    no_host = entered(dry=asked.dry)
    context = Context(Results(asked.results), deadline, asked.dry, no_host)
    return run_stage(asked.stage, context)


def run_stage(name: str, context: Context) -> int:
    began = time.monotonic()
    try:
        stage(name).run(context)
    except Exception as error:
        context.skip(f"the rest of {stage(name).title}", f"{type(error).__name__}: {error}"[:300])
        traceback.print_exc()
        return 1
    context.add("stage", name=name, seconds=time.monotonic() - began)
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry", action="store_true")
    return parser.parse_args(arguments)


def end_with(parent: int) -> None:
    """A card is not left at work for somebody who has gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(2)
