"""One evaluation of the host's model, as its wrappers see it coming."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from .attention_parts import KEY as PARTS


@dataclass(frozen=True)
class Evaluation:
    """What the host is about to evaluate.

    Attributes:
        model: the host's, with the diffusion model in it.
        x: (batch, channels, height, width).
        options: its transformer_options.
        conds: the conditioning by name.
    """

    model: Any
    x: Tensor
    options: dict[str, Any]
    conds: dict[str, Any]

    @property
    def diffusion_model(self) -> Any:
        """Itself, also while torch.compile's stand-in is in its place."""
        return getattr(self.model.diffusion_model, "_orig_mod", self.model.diffusion_model)

    @cached_property
    def reference_latents(self) -> list[Tensor]:
        """(batch, channels, height, width), as the diffusion model would be given them."""
        dtype = self.model.get_dtype_inference()
        return [latent.to(self.x.device, dtype) for latent in self.conds.get("ref_latents") or ()]

    @property
    def reference_tokens(self) -> int:
        """How many there are, without those that settings take out."""
        parts = self.options.get(PARTS)
        return sum(parts.layout.references) if parts else sum(x.shape[-2] * x.shape[-1] for x in self.reference_latents)

    @property
    def compiled(self) -> bool:
        """Whether torch.compile makes code of the diffusion model or of its blocks."""
        return is_compiled(self.model, self.options)


def is_compiled(model: Any, options: dict[str, Any]) -> bool:
    """Whether torch.compile makes code of the diffusion model of the host's model, by these transformer_options too."""
    import comfy.patcher_extension
    import comfy_api.torch_helpers.torch_compile

    by_host = options.get("wrappers", {}).get(comfy.patcher_extension.WrappersMP.APPLY_MODEL, {})
    inner = model.diffusion_model
    return (
        comfy_api.torch_helpers.torch_compile.COMPILE_KEY in by_host
        or hasattr(inner, "_orig_mod")
        or inner._compiled_call_impl is not None
    )
