"""The README's table of cards, as Klein 9B Plan computes it.

Usage: card_table.py   (prints Markdown)
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pack import importable

from browser.plan_notes import card_of, plan_of
from host.workflow_files import WORKFLOWS, nodes_of, read, twin

TASKS = ("text to image", "edit one image", "edit two images")
HEAD = "| card | task | diffusion model | text encoder | VAE | to download | in VRAM while sampling | streamed a step |"


def card_table() -> str:
    """One row for each workflow that is made for a card."""
    found = [path for path in WORKFLOWS if path.stem.endswith(" GB")]
    order = sorted(found, key=lambda path: (card_of(path.stem), next(i for i, t in enumerate(TASKS) if t in path.stem)))
    return "\n".join([HEAD, "|" + "---|" * (HEAD.count("|") - 1), *map(_row, order)])


def _row(path: Path) -> str:
    from klein9b.klein.plan import gb

    gib = card_of(path.stem)
    (asked,) = nodes_of(read(twin(path)), "Klein9BPlan")
    plan = plan_of(asked["inputs"], gib)
    files = (plan.files.model, plan.files.encoder, plan.files.vae)
    task = next(task for task in TASKS if task in path.stem)
    names = [f"`{file.name.removesuffix('.safetensors')}`" for file in files]
    download = gb(sum(file.to_download for file in files))
    streamed = gb(plan.streamed) if plan.streamed else "nothing"
    return f"| {gib} GB | {task} | {' | '.join(names)} | {download} | {gb(plan.in_use)} | {streamed} |"


if __name__ == "__main__":
    importable()
    print(card_table())
