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

    device, processor = management.get_torch_device(), torch.device("cpu")
    loaded = [one for one in management.current_loaded_models if one.device == device and one.model is not None]
    kept = sum(one.model_loaded_memory() for one in loaded)
    offloaded = sum(one.model_memory() for one in loaded) - kept
    free, total = management.get_free_memory(device), management.get_total_memory(device)
    state = management.vram_state
    ram, has_none = management.get_free_memory(processor), management.is_device_cpu(device)
    is_processor = has_none or management.is_device_mps(device)
    # DirectML tells ComfyUI nothing, and ComfyUI then says 1 GiB; Apple's card has no memory but the RAM.
    unknown = management.is_directml_enabled()
    return Card(
        name=device_name(device),
        total=None if unknown else int(total),
        free=0 if unknown else int(min(total, free + kept)),
        ram=int(min(management.get_total_memory(processor), ram + (kept if is_processor else offloaded))),
        reserved=int(management.extra_reserved_memory()),
        is_processor=is_processor,
        dynamic=bool(comfy.memory_management.aimdo_enabled),
        streams=management.NUM_STREAMS,
        least_share=management.MIN_WEIGHT_MEMORY_RATIO,
        stays={"NO_VRAM": False, "HIGH_VRAM": True}.get(state.name),
        encodes=management.text_encoder_device() == device,
    )


@needs_host()
def device_name(device: torch.device) -> str:
    """As its maker calls it, without the number and the allocator that the host's log has beside it."""
    import comfy.model_management as management

    return torch.cuda.get_device_name(device) if device.type == "cuda" else management.get_torch_device_name(device)
