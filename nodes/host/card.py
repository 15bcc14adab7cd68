"""The card this ComfyUI runs on, as the memory plan asks for it."""

from __future__ import annotations

from ...klein.plan import RAM, VRAM, Card
from .newer_host import needs_host


@needs_host()
def this_card() -> Card:
    """What the host could have when nothing of its own is loaded. Without a card, RAM stands for VRAM."""
    import comfy.memory_management
    import comfy.model_management

    device, cpu = comfy.model_management.get_torch_device(), comfy.model_management.torch.device("cpu")
    ram = comfy.model_management.get_total_memory(cpu)
    loaded = [one for one in comfy.model_management.current_loaded_models if one.device == device]
    free = comfy.model_management.get_free_memory(device) + sum(one.model_loaded_memory() for one in loaded)
    no_card = comfy.model_management.is_device_cpu(device)
    return Card(
        total=comfy.model_management.get_total_memory(device),
        usable=max(0, int(free - comfy.model_management.extra_reserved_memory())),
        ram=ram,
        on_demand=no_card or comfy.memory_management.aimdo_enabled,
        memory=RAM if no_card else VRAM,
    )
