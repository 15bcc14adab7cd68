"""``python -m fake_segmind --port-file FILE``: the fake as its own process, from the tests folder.

Prints nothing. FILE appears whole, as JSON with key, api_url, storage_url, account_url, image_url, evil_url.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from pathlib import Path

from .jobs import Behaviour
from .server import FakeSegmind
from .settings import Settings


def main() -> None:
    args = _arguments()
    behaviour = Behaviour(queue_seconds=args.queue_seconds, run_seconds=args.run_seconds)
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    with FakeSegmind(behaviour, Settings(rpm=args.rpm, pixels=args.pixels)) as fake:
        _write_whole(args.port_file, json.dumps(fake.description()))
        while not stop.wait(1.0):
            pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fake_segmind", description=__doc__)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--queue-seconds", type=float, default=0.0)
    parser.add_argument("--run-seconds", type=float, default=0.0)
    parser.add_argument("--rpm", type=int, default=None)
    parser.add_argument("--pixels", type=int, default=1024 * 1024)
    return parser.parse_args()


def _write_whole(path: Path, text: str) -> None:
    """A reader sees no file or the whole file, never half of one; it holds a key, so it is private."""
    draft = path.with_name(path.name + ".part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


if __name__ == "__main__":
    main()
