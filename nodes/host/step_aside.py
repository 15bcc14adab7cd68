"""When the exact reference cache must step aside for the stock path, and why: a clause, or None where it need not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from torch import nn

from .as_written import is_as_written
from .block_functions import is_hung_onto
from .cache_blocks import own_places
from .changed_tokens import ChangedTokens
from .evaluation import Evaluation
from .own_blocks import places

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)

METHOD = "index"
_PATCHES_THAT_SEE_REFERENCES = ("post_input", "attn1_patch", "attn1_output_patch")


def step_aside(reason: object) -> str:
    """Says so in the log, once a run; returns the reason as a clause."""
    clause = str(reason).removesuffix(".")
    log.warning("Klein 9B Reference Cache steps aside, the stock path runs: %s.", clause)
    return clause


def run_unfit_because(
    patcher: ModelPatcher, conds: dict[str, list[dict[str, Any]]], options: dict[str, Any]
) -> str | None:
    """Why a whole run cannot use the cache."""
    import comfy.model_management

    if patcher.hook_patches or patcher.forced_hooks or len(options.get("registered_hooks") or ()):
        return "hooks change the weights while sampling"
    if any("hooks" in cond for kind in conds.values() for cond in kind):
        return "hooks on the conditioning change the weights while sampling"
    if patcher.get_additional_models_with_key("multigpu"):
        return "the model runs on several GPUs"
    if comfy.model_management.in_training:
        return "the model is being trained"
    return model_unfit_because(patcher.get_model_object("diffusion_model"))


def model_unfit_because(model: Any) -> str | None:
    """Why these modules are not Klein as we know it."""
    import comfy.ldm.flux.layers
    import comfy.ldm.flux.model

    if not isinstance(model, comfy.ldm.flux.model.Flux):
        return f"the diffusion model is a {type(model).__name__}, not the host's Flux"
    known = all(type(b) is comfy.ldm.flux.layers.DoubleStreamBlock for b in model.double_blocks)
    known &= all(type(b) is comfy.ldm.flux.layers.SingleStreamBlock for b in model.single_blocks)
    if not known or not len(model.single_blocks):
        return "its blocks are not the host's Flux blocks"
    kinds = comfy.ldm.flux.layers.DoubleStreamBlock, comfy.ldm.flux.layers.SingleStreamBlock
    changed = next((kind.__name__ for kind in kinds if not is_as_written(kind, "forward")), None)
    if changed:
        return f"another pack has changed the host's {changed}.forward"
    p = model.params
    if not (p.global_modulation and p.mlp_silu_act) or p.guidance_embed or p.yak_mlp or p.txt_norm or p.vec_in_dim:
        return "its blocks are not Klein's"
    activations = (comfy.ldm.flux.layers.QKNorm, comfy.ldm.flux.layers.SiLUActivation)
    done_by_us = (*activations, nn.LayerNorm, nn.RMSNorm, nn.Sequential)
    parts = (part for block in (*model.double_blocks, *model.single_blocks) for part in block.modules())
    if any(is_hung_onto(part) for part in parts if isinstance(part, done_by_us)):
        return "something is hung onto the norms or activations of its blocks"
    return None


def evaluation_unfit_because(evaluation: Evaluation) -> str | None:
    """Why one evaluation of the model cannot use the cache."""
    model, options, conds = evaluation.diffusion_model, evaluation.options, evaluation.conds
    x, references = evaluation.x, evaluation.reference_latents
    method = conds.get("ref_latents_method", model.params.default_ref_method)
    if method != METHOD:
        return f"the reference method is {method}, not {METHOD}"
    if conds.get("attention_mask") is not None:
        return "the conditioning carries an attention mask"
    for name in _PATCHES_THAT_SEE_REFERENCES:
        if any(not isinstance(one, ChangedTokens) for one in options.get("patches", {}).get(name, ())):
            return f"another node patches {name}, which would no longer see the references"
    if x.requires_grad or any(r.requires_grad for r in references):
        return "gradients are wanted"
    if any(r.ndim != 4 or r.shape[0] != x.shape[0] for r in references):
        return "the references are not one latent image for each row of the batch"
    if evaluation.compiled and len(own_places(model, options, all_of_them=True)) < len(places(model)):
        return "the model is compiled, and another node changes some of its blocks"
    return None
