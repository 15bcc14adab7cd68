"""What a workflow's note says of memory: the plan for the card in its name, as Klein 9B Plan computes it."""

from __future__ import annotations

import re

USUAL_CARD = 16
RAM_GIB = 32


def plan_note(inputs: dict, name: str) -> str:
    """Markdown of the plan that a Klein9BPlan with these inputs makes of the official files.

    Args:
        name: of the workflow; "... 12 GB" is for a card of 12 GB, one without a card is told for 16.
    """
    from klein9b.klein.plan import NOT_MEASURED, report

    verdict, *numbers = report(plan_of(inputs, card_of(name))).splitlines()
    listed = [f"- {line}" for line in numbers if line and line != NOT_MEASURED]
    return "\n".join([f"**{verdict}**", "", f"On {card_of(name)} GiB of VRAM and {RAM_GIB} GiB of RAM:", "", *listed])


def card_of(name: str) -> int:
    found = re.search(r"(\d+) GB$", name)
    return int(found[1]) if found else USUAL_CARD


def plan_of(inputs: dict, gib: int):
    from klein9b.klein.framing import Size
    from klein9b.klein.kv_store import Storage
    from klein9b.klein.official_files import encoder_file, model_file, vae_file
    from klein9b.klein.plan import Files, Plan
    from klein9b.klein.residency import GIB, imagined_card
    from klein9b.klein.vram import Job

    files = Files(
        model_file(inputs["diffusion_model"], None),
        encoder_file(inputs["text_encoder"], None),
        vae_file(inputs["vae"], None),
    )
    cache = inputs.get("reference_cache", "off")
    megapixel = Size(1024, 1024)
    job = Job(
        megapixel,
        (megapixel,) * inputs.get("references", 0),
        guided=inputs.get("cfg", 1) > 1,
        cache=None if cache == "off" else Storage(cache),
    )
    return Plan(files, job, imagined_card(gib, RAM_GIB * GIB))
