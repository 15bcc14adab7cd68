"""A graphics card in the host's books: cpu:0, with so many bytes. What is loaded there and taken from there is counted.

Tensors stay where they are; everything that decides about them is the host's own and ours.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict

import torch

CARD = torch.device("cpu", 0)
RAM = torch.device("cpu")
GIB = 2**30


class SimulatedCard:
    """The host's memory manager with this card, while monkeypatch lasts.

    Attributes:
        into: bytes loaded onto the card, by the class of the model they belong to.
        out_of: bytes taken from it.
        peak: of all that lay there at once when somebody looked.
        taken: bytes that nobody's books hold.
        ram: free RAM, whatever is taken of it.
    """

    def __init__(self, monkeypatch, total: int, *, activations: int = 0, vram_state: str = "NORMAL_VRAM") -> None:
        import comfy.model_management as management
        import comfy.sampler_helpers

        self.management = management
        self.total = total
        self.into, self.out_of = Counter(), Counter()
        self.peak = 0
        self.taken = 0
        self.ram = 64 * GIB
        self._seen = []
        for model in (*management.current_loaded_models,):
            model.model.detach()
        replacements = {
            "current_loaded_models": [],
            "vram_state": management.VRAMState[vram_state],
            "is_device_cpu": lambda device: device == RAM,
            "get_torch_device": lambda: CARD,
            "unet_offload_device": lambda: RAM,
            "text_encoder_device": lambda: CARD,
            "vae_device": lambda: CARD,
            "EXTRA_RESERVED_VRAM": 0,
            "MIN_WEIGHT_MEMORY_RATIO": 0,
            "minimum_inference_memory": lambda: 0,
            "soft_empty_cache": lambda: None,
            "get_free_memory": self.free,
            "get_total_memory": lambda device=None, torch_total_too=False: total,
        }
        for name, replacement in replacements.items():
            monkeypatch.setattr(management, name, replacement)
        monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory", lambda *_: (activations, activations))
        for name in ("model_load", "model_unload"):
            monkeypatch.setattr(management.LoadedModel, name, self._counted(getattr(management.LoadedModel, name)))

    def free(self, device=None, torch_free_too=False):
        free = self.ram if device == RAM else self.total - self.taken - self.used
        return (free, 0) if torch_free_too else free

    @property
    def used(self) -> int:
        """Also of what the host has just taken off its list, to load more of it."""
        return sum(self.on_card().values())

    def look(self) -> None:
        self.peak = max(self.peak, self.used)

    def on_card(self) -> dict[str, int]:
        models = {id(one.model): one for one in (each() for each in self._seen) if one is not None}
        sizes = defaultdict(int)
        for model in models.values():
            sizes[type(model.model).__name__] += model.loaded_size()
        return dict(sizes)

    def _counted(self, method):
        def counted(loaded, *args, **kwargs):
            self._seen.append(weakref.ref(loaded.model))
            before = loaded.model.loaded_size()
            result = method(loaded, *args, **kwargs)
            change = loaded.model.loaded_size() - before
            (self.into if change > 0 else self.out_of)[name_of(loaded)] += abs(change)
            self.look()
            return result

        return counted


def name_of(loaded) -> str:
    return type(loaded.model.model).__name__


def plain_model(name: str, size: int):
    """A MODEL of the host's that is nothing but weights, such as a text encoder whose work is done elsewhere."""
    import comfy.model_patcher
    import comfy.ops

    layers = [comfy.ops.manual_cast.Linear(256, 256, bias=False) for _ in range(size // (256 * 256 * 4))]
    module = type(name, (torch.nn.Sequential,), {})(*layers)
    module.device = RAM
    return comfy.model_patcher.ModelPatcher(module, load_device=CARD, offload_device=RAM)
