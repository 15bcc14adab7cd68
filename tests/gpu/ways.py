"""The ways to run a model that are timed beside each other, each a MODEL of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cells import AGAIN, COMPILED, EXACT, KV, STOCK, WARM

Told = Callable[[Any], None]


def way(
    model: Any,
    kind: str,
    *,
    dry: bool = False,
    told: Told = lambda report: None,
    hear: Callable[[str], None] = lambda said: None,
) -> Any:
    """The MODEL run that way; the one given stays as it was.

    Args:
        dry: torch.compile traces and does not compile.
        told: is given what every run of Klein 9B Accelerate came to.
        hear: is given what it says of attention.
    """
    if kind in (STOCK, AGAIN):
        return model.clone()
    if kind == COMPILED:
        return compiled(model, "eager" if dry else "inductor")
    if kind == KV:
        from comfy_extras.nodes_flux import FluxKVCache

        return FluxKVCache.execute(model).args[0]
    fast = accelerated(model, exact=kind == EXACT, told=told, hear=hear)
    return cached(fast)[0] if kind == WARM else fast


def compiled(model: Any, backend: str = "inductor") -> Any:
    """By the host's own node, compiled anew."""
    import torch._dynamo
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    torch._dynamo.reset()
    if backend == "inductor":
        return TorchCompileModel.execute(model, backend).args[0]
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=clone, backend=backend)
    return clone


def accelerated(
    model: Any, *, exact: bool, told: Told = lambda report: None, hear: Callable[[str], None] = lambda said: None
) -> Any:
    """As Klein 9B Accelerate makes it of these inputs: that profile, attention "auto", cfg everywhere."""
    from klein9b.nodes.host.acceleration import Acceleration, accelerated
    from klein9b.nodes.host.attention_choice import Attention, choose, put_on
    from klein9b.nodes.host.chosen_ops import ChosenOps, Profile

    ops = ChosenOps(Profile.EXACT if exact else Profile.FAST, model)
    faster = accelerated(model, Acceleration(ops, ops.description, told))
    put_on(faster, choose(Attention.AUTO.value, faster.load_device, hear))
    return faster


def cached(model: Any, **settings: Any) -> tuple[Any, list[str]]:
    """Behind Klein 9B Reference Cache, and the lines that it showed."""
    from klein9b.klein.kv_store import Storage
    from klein9b.nodes.host.cache_run import Settings
    from klein9b.nodes.reference_cache import with_cached_references

    shown: list[str] = []
    chosen = {"storage": Storage.MODEL, "budget": 2**40, "approximate": ""} | settings
    return with_cached_references(model, Settings(show=shown.append, **chosen)), shown
