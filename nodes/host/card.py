"""Where this ComfyUI runs models, as its memory manager sees it."""

from __future__ import annotations

import torch

from ...klein.residency import Card
from .newer_host import needs_host


@needs_host()
def this_card() -> Card:
    """What models loaded now would give back counts as free. A memory that nobody knows has total None."""
    import comfy.memory_management
    import comfy.model_management as management

    device = management.get_torch_device()
    loaded = (one for one in management.current_loaded_models if one.device == device and one.model is not None)
    kept = sum(one.model_loaded_memory() for one in loaded)
    free, total = management.get_free_memory(device), management.get_total_memory(device)
    # DirectML tells ComfyUI nothing, and ComfyUI then says 1 GiB; Apple's card has no memory but the RAM.
    unknown = management.is_directml_enabled()
    return Card(
        name=management.get_torch_device_name(device),
        total=None if unknown else int(total),
        free=0 if unknown else int(min(total, free + kept)),
        ram=int(management.get_free_memory(torch.device("cpu"))),
        reserved=int(management.extra_reserved_memory()),
        is_processor=management.is_device_cpu(device) or management.is_device_mps(device),
        dynamic=bool(comfy.memory_management.aimdo_enabled),
        streams=management.NUM_STREAMS,
        least_share=management.MIN_WEIGHT_MEMORY_RATIO,
    )
