"""Klein 9B at full size in the host's own classes, and the bytes that live at once while it runs.

On the meta device tensors have sizes and no memory. Attention allocates what a card's flash attention does: its output
and one float32 a query, no matrix of scores.
"""

from __future__ import annotations

from functools import cache

import torch
from peak_memory import PeakMemory

from klein9b.kernels.ops import Ops
from klein9b.klein.kv_cache import BlockReferences
from klein9b.klein.kv_store import Storage
from klein9b.klein.vram import KLEIN_9B
from standins.quantised import quantised

PARAMS = {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0, "axes_dim": [32] * 4,
    "theta": 2000, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3], "patch_size": 1,
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
    "ref_index_scale": 10.0,
}  # fmt: skip


@cache
def klein(dims, device="meta"):
    import comfy.ops

    return _flux(dims, device, comfy.ops.disable_weight_init)


@cache
def quantised_klein(dims, format):
    """Its blocks in one of the host's quantised formats, as the host loads them."""
    import comfy.ops

    model = _flux(dims, "meta", comfy.ops.mixed_precision_ops({}, torch.bfloat16))
    scale = 1.0 if format == "float8_e4m3fn" else None
    model.load_state_dict(quantised(klein(dims).state_dict(), format, input_scale=scale))
    return model


def _flux(dims, device, operations):
    import comfy.ldm.flux.model

    shape = {"hidden_size": dims.hidden, "num_heads": dims.hidden // 128, "context_in_dim": dims.context}
    depth = {"depth": dims.double_blocks, "depth_single_blocks": dims.single_blocks}
    settings = PARAMS | shape | depth
    return comfy.ldm.flux.model.Flux(dtype=torch.bfloat16, device=device, operations=operations, **settings)


def flash(_, q, k, v, heads, *args, **options):
    q, k, v = (one if isinstance(one, torch.Tensor) else one.take() for one in (q, k, v))
    batch, _, length, dim = q.shape
    sums = q.new_empty(batch, heads, length, dtype=torch.float32)
    return q.new_empty(batch, length, heads * dim, dtype=q.dtype) if sums.numel() else None


def empty(*shape, device="meta"):
    return torch.empty(*shape, dtype=torch.bfloat16, device=device)


def latent(rows, size, device="meta"):
    return empty(rows, 128, size.height // 16, size.width // 16, device=device)


def evaluate(model, job, options, device="meta", **conds):
    """The bytes that lived at once."""
    inputs = inputs_of(job, device)
    with torch.inference_mode(), PeakMemory() as memory:
        model(*inputs, transformer_options=options, **conds)
    return memory.peak


def inputs_of(job, device="meta"):
    """Latent, time and text."""
    times, text = torch.zeros(job.rows, device=device), (job.rows, job.text_tokens, KLEIN_9B.context)
    return latent(job.rows, job.size, device), times, empty(*text, device=device)


def stock(job, dims=KLEIN_9B, device="meta"):
    references = [latent(job.rows, size, device) for size in job.references]
    return evaluate(
        klein(dims, device), job, {"optimized_attention_override": flash}, device, ref_latents=references or None
    )


def accelerated(job, dims=KLEIN_9B):
    """In the second evaluation of a run, which has positions from the first."""
    from klein9b.nodes.host.acceleration import Acceleration

    ours = Acceleration(lambda like: as_kernels_allocate(), "test", lambda report: None)
    options = {"optimized_attention_override": flash}
    options |= {"wrappers": {"diffusion_model": {"klein9b_accelerate": [ours.diffusion_model]}}}
    references = [latent(job.rows, size) for size in job.references] or None
    peaks = [evaluate(klein(dims), job, options, ref_latents=references) for _ in range(2)]
    return peaks[-1]


def as_kernels_allocate():
    """Ops that make their result and nothing besides."""

    def heads(packed, norms, freqs, heads, *, out=None):
        parts = packed.unflatten(-1, (len(norms), heads, -1)).permute(2, 0, 3, 1, 4)
        made = zip(parts, norms, out or [None] * len(norms), strict=True)
        return tuple(
            room if room is not None else part if norm is None else empty(*part.shape) for part, norm, room in made
        )

    return Ops(
        layer_norm_modulate=lambda x, scale, shift: empty(*x.shape),
        gated_residual_=lambda x, y, gate: x,
        gated_residual_norm_=lambda x, y, gate, scale, shift: empty(*x.shape),
        heads_norm_rope=heads,
        swiglu_concat=lambda mlp, attended: empty(
            *mlp.shape[:-1], mlp.shape[-1] // 2 + (0 if attended is None else attended.shape[-1])
        ),
    )


def cached_step(job):
    from klein9b.nodes.host.cache_blocks import ARGUMENT, References, own_places, reach_blocks

    model, options = klein(KLEIN_9B), {"optimized_attention_override": flash}
    pair = tuple(empty(1, 32, job.reference_tokens, 128) for _ in range(2))
    stored = job.cache.pack(pair)

    class Kept:
        def read(self, index):
            return BlockReferences(job.cache, torch.bfloat16, (stored,), (0,))

    references = References(model, Kept(), own_places(model, options, all_of_them=False))
    peak = evaluate(
        model, job, options | {"wrappers": {"diffusion_model": {ARGUMENT: [reach_blocks]}}}, **{ARGUMENT: references}
    )
    assert not references.missing
    return peak


def reference_pass(job):
    """Without what is kept: of the pairs, the one last yielded is counted where it is only rounded from."""
    from klein9b.klein.kv_pass import reference_keys_values
    from klein9b.nodes.host.block_functions import host_functions

    model, functions = klein(KLEIN_9B), host_functions({"optimized_attention_override": flash})
    tokens, ids = empty(1, job.reference_tokens, 128), torch.zeros(1, job.reference_tokens, 4, device="meta")
    with torch.inference_mode(), PeakMemory() as memory:
        for pair in reference_keys_values(model, tokens, ids, functions):
            job.cache.pack(pair)
    return memory.peak - (sum(one.nbytes for one in pair) if job.cache is Storage.MODEL else 0)


@cache
def vae(decoder):
    import comfy.ldm.models.autoencoder

    config = {"double_z": True, "z_channels": 32, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    config |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "batch_norm_latent": True}
    with torch.device("meta"):
        model = comfy.ldm.models.autoencoder.AutoencoderKL(
            ddconfig=config, embed_dim=32, decoder_ddconfig=config | {"ch": decoder}
        )
    for half in (model.encoder, model.decoder):
        half.mid.attn_1.optimized_attention = lambda q, k, v: torch.empty_like(q)
    return model.to(torch.bfloat16)


def counted(call, *inputs):
    with torch.inference_mode(), PeakMemory() as memory:
        call(*inputs)
    return memory.peak
