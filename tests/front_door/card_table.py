"""The README's table of cards and its gigabytes of files, as Klein 9B Plan computes them.

Usage: card_table.py   (prints Markdown)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pack import importable

from browser.plan_notes import card_of, plan_of
from host.workflow_files import WORKFLOWS, nodes_of, read, twin

if TYPE_CHECKING:
    from klein9b.klein.plan import Plan

TASKS = ("text to image", "edit one image", "edit two images")
HEAD = "| card | task | diffusion model | text encoder | VAE | to download | in VRAM while sampling | streamed a step |"


def card_table() -> str:
    """One row for each workflow that is made for a card."""
    return "\n".join([HEAD, "|" + "---|" * (HEAD.count("|") - 1), *map(_row, _for_a_card())])


def gigabytes() -> str:
    """What the files of each card take on the disk, in the README's words."""
    from klein9b.klein.plan import gb

    plans = {card_of(path.stem): _plan(path) for path in _for_a_card()}
    parts = [f"{gb(_download(plan))} for a card of {gib} GB" for gib, plan in plans.items()]
    return f"to download once: {', '.join(parts)}"


def _for_a_card() -> list[Path]:
    found = [path for path in WORKFLOWS if path.stem.endswith(" GB")]
    return sorted(found, key=lambda path: (card_of(path.stem), next(i for i, t in enumerate(TASKS) if t in path.stem)))


def _plan(path: Path) -> Plan:
    (asked,) = nodes_of(read(twin(path)), "Klein9BPlan")
    return plan_of(asked["inputs"], card_of(path.stem))


def _download(plan: Plan) -> float:
    return sum(file.to_download for file in (plan.files.model, plan.files.encoder, plan.files.vae))


def _row(path: Path) -> str:
    from klein9b.klein.plan import gb

    gib, plan = card_of(path.stem), _plan(path)
    files = (plan.files.model, plan.files.encoder, plan.files.vae)
    task = next(task for task in TASKS if task in path.stem)
    names = [f"`{file.name.removesuffix('.safetensors')}`" for file in files]
    download = gb(_download(plan))
    streamed = gb(plan.streamed) if plan.streamed else "nothing"
    return f"| {gib} GB | {task} | {' | '.join(names)} | {download} | {gb(plan.in_use)} | {streamed} |"


if __name__ == "__main__":
    importable()
    print(card_table(), gigabytes(), sep="\n\n")
