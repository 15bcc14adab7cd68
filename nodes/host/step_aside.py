"""When the exact reference cache must step aside for the stock path, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .block_functions import is_hung_onto

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

METHOD = "index"
_PATCHES_THAT_SEE_REFERENCES = ("post_input", "attn1_patch", "attn1_output_patch")


def refuse_run(patcher: ModelPatcher, conds: dict[str, list[dict[str, Any]]], options: dict[str, Any]) -> str | None:
    """Why a whole run cannot use the cache, as a clause; None if it can."""
    import comfy.model_management

    if patcher.hook_patches or patcher.forced_hooks or len(options.get("registered_hooks") or ()):
        return "hooks change the weights while sampling"
    if any("hooks" in cond for kind in conds.values() for cond in kind):
        return "hooks on the conditioning change the weights while sampling"
    if patcher.get_additional_models_with_key("multigpu"):
        return "the model runs on several GPUs"
    if comfy.model_management.in_training:
        return "the model is being trained"
    return refuse_model(patcher.get_model_object("diffusion_model"))


def refuse_model(model: Any) -> str | None:
    """Why these modules are not Klein as we know it."""
    import comfy.ldm.flux.layers
    import comfy.ldm.flux.model

    if not isinstance(model, comfy.ldm.flux.model.Flux):
        return f"the diffusion model is a {type(model).__name__}, not the host's Flux"
    known = all(type(b) is comfy.ldm.flux.layers.DoubleStreamBlock for b in model.double_blocks)
    known &= all(type(b) is comfy.ldm.flux.layers.SingleStreamBlock for b in model.single_blocks)
    if not known or not len(model.single_blocks):
        return "its blocks are not the host's Flux blocks"
    p = model.params
    if not (p.global_modulation and p.mlp_silu_act) or p.guidance_embed or p.yak_mlp or p.txt_norm or p.vec_in_dim:
        return "its blocks are not Klein's"
    activations = (comfy.ldm.flux.layers.QKNorm, comfy.ldm.flux.layers.SiLUActivation)
    done_by_us = (*activations, nn.LayerNorm, nn.RMSNorm, nn.Sequential)
    parts = (part for block in (*model.double_blocks, *model.single_blocks) for part in block.modules())
    if any(is_hung_onto(part) for part in parts if isinstance(part, done_by_us)):
        return "something is hung onto the norms or activations of its blocks"
    return None


def refuse_evaluation(
    model: Any, x: Tensor, references: list[Tensor], options: dict[str, Any], extra: dict[str, Any]
) -> str | None:
    """Why one evaluation of the model cannot use the cache."""
    method = extra.get("ref_latents_method", model.params.default_ref_method)
    if method != METHOD:
        return f"the reference method is {method}, not {METHOD}"
    if extra.get("attention_mask") is not None:
        return "the conditioning carries an attention mask"
    for name in _PATCHES_THAT_SEE_REFERENCES:
        if options.get("patches", {}).get(name):
            return f"another node patches {name}, which would no longer see the references"
    if options.get("patches_replace", {}).get("dit"):
        return "another node replaces blocks, which would no longer see the references"
    if x.requires_grad or any(r.requires_grad for r in references):
        return "gradients are wanted"
    if any(r.ndim != 4 or r.shape[0] != x.shape[0] for r in references):
        return "the references are not one latent image for each row of the batch"
    return None
