"""One evaluation of the host's model, as its wrappers see it coming."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor


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
    def compiled(self) -> bool:
        """Whether torch.compile makes code of the diffusion model or of its blocks."""
        import comfy.patcher_extension
        import comfy_api.torch_helpers.torch_compile

        by_host = self.options.get("wrappers", {}).get(comfy.patcher_extension.WrappersMP.APPLY_MODEL, {})
        model = self.model.diffusion_model
        return (
            comfy_api.torch_helpers.torch_compile.COMPILE_KEY in by_host
            or model is not self.diffusion_model
            or model._compiled_call_impl is not None
        )
