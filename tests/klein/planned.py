"""Plans of the official files."""

from klein9b.klein.framing import Size
from klein9b.klein.plan import Card, ModelSet, Plan, make_plan, named_card
from klein9b.klein.planned_files import planned_set
from klein9b.klein.vram import Job

MEGAPIXEL = Size(1024, 1024)
NOWHERE = dict.fromkeys(("diffusion_model", "text_encoder", "vae"))


def official(model: str, encoder: str = "qwen_3_8b_fp4mixed", vae: str = "flux2-vae") -> ModelSet:
    names = {"diffusion_model": model, "text_encoder": encoder, "vae": vae}
    return planned_set(NOWHERE, {slot: f"{name}.safetensors" for slot, name in names.items()})


def plan(card: float | Card, model: str, *, references: int = 0, size: Size = MEGAPIXEL, **job: object) -> Plan:
    """On a card, or on one of so many GiB with 32 GiB of RAM."""
    there = card if isinstance(card, Card) else named_card(card, 32)
    return make_plan(official(model), Job(size, (MEGAPIXEL,) * references, **job), there)
