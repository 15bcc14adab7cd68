"""What a workflow's note says of memory: the plan for the card in its name, as Klein 9B Plan computes it."""

from __future__ import annotations

import re

USUAL_CARD = 16
RAM = 32


def plan_note(inputs: dict, name: str) -> str:
    """Markdown of the plan that a Klein9BPlan with these inputs makes of the official files.

    Args:
        name: of the workflow; "... 12 GB" is for a card of 12 GB, one without a card is told for 16.
    """
    from klein9b.klein.plan import cheapest_change
    from klein9b.klein.plan_words import plan_in_words
    from klein9b.klein.planned_files import smaller_files

    plan = plan_of(inputs, card_of(name))
    words = plan_in_words(plan, cheapest_change(plan, smaller_files(inputs["diffusion_model"])))
    verdict, _, asked, *numbers = words.splitlines()
    listed = [f"- {line}" for line in numbers if line and not line.startswith("Seconds")]
    return "\n".join([f"**{verdict}**", "", f"{asked}:", "", *listed])


def card_of(name: str) -> int:
    found = re.search(r"(\d+) GB$", name)
    return int(found[1]) if found else USUAL_CARD


def plan_of(inputs: dict, gib: int):
    from klein9b.klein.framing import MEGAPIXEL, Size
    from klein9b.klein.kv_store import Storage
    from klein9b.klein.plan import make_plan, named_card
    from klein9b.klein.planned_files import planned_set
    from klein9b.klein.vram import Job

    slots = ("diffusion_model", "text_encoder", "vae")
    side = int(MEGAPIXEL**0.5)
    references = (Size(side, side),) * inputs.get("references", 0)
    cache = inputs.get("reference_cache", "off")
    size = Size(inputs.get("width", side), inputs.get("height", side))
    job = Job(size, references, guided=inputs.get("cfg", 1) > 1, cache=None if cache == "off" else Storage(cache))
    models = planned_set(dict.fromkeys(slots), {slot: inputs[slot] for slot in slots})
    return make_plan(models, job, named_card(gib, RAM))
