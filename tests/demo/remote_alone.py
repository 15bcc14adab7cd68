"""The remote edit of two photographs without ComfyUI: remote/ against an imitation of Segmind on loopback."""

import asyncio
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import standins
from fake_segmind import Behaviour, FakeSegmind
from klein9b.remote import service
from klein9b.remote.keys import Hosts, Key
from klein9b.remote.service import Account, KleinRequest, Picture, Progress

from .say import say

SIDE = 512
SEGMIND = Behaviour(queue_seconds=1.0, run_seconds=4.0)
EDIT = KleinRequest(
    prompt="make the woman in image 1 hold the cup from image 2.", seed=42, aspect_ratio="match_input_image"
)


def run(output: Path) -> None:
    say("asking an imitation of Segmind for an edit of two photographs")
    photographs = [_pixels(standins.photograph(name, longest_side=SIDE)) for name in ("astronaut", "coffee")]
    with tempfile.TemporaryDirectory() as folder, FakeSegmind(SEGMIND) as segmind:
        hosts = Hosts(api=segmind.api_url, storage=segmind.storage_url, account=segmind.account_url)
        first, again = asyncio.run(_twice(Account(Path(folder), Key(segmind.key), hosts), photographs))
        charged = len(segmind.ledger)
    target = output / "remote edit.png"
    Image.fromarray(np.rint(first.decoded.image * 255).astype(np.uint8)).save(target)
    say(f"receipt: {json.dumps(first.receipt, indent=2)}")
    say(f"asked again: reused {again.receipt['reused']}, {charged} charge in Segmind's ledger; wrote {target}")


async def _twice(account: Account, photographs: list[np.ndarray]) -> tuple[Picture, Picture]:
    (first,) = await service.run(account, [EDIT], photographs, on_progress=_Said().hear)
    (again,) = await service.run(account, [EDIT], photographs)
    return first, again


class _Said:
    """Says each state once."""

    def __init__(self) -> None:
        self._last = ""

    def hear(self, jobs: list[Progress | None]) -> None:
        for job in jobs:
            if job and job.state != self._last:
                self._last = job.state
                say(f"{job.waited_s:4.1f} s {job.state}")


def _pixels(photograph: Image.Image) -> np.ndarray:
    return np.asarray(photograph.convert("RGB"), np.float32) / 255
