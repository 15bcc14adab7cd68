"""The reference tokens' keys and values, as FLUX.2 [klein] 9B KV was trained to see them.

Reference tokens attend only to reference tokens, at timestep 0, so their keys and values depend on nothing but the
reference latents, their positions and the weights. Same numbers as `Flux2KVAttnProcessor` in diffusers'
transformer_flux2.py and docs/flux2_klein_kv_cache.md in black-forest-labs/flux2.

Works on any module tree with Klein's names. The modules are called, their weights never touched, so whatever the host
does to them (quantisation, offloading, LoRA) holds here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TIME_CHANNELS = 256
FP16_LIMIT = 65504

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Rows:
    """The output features `start` to `stop` of a linear layer, wanted for one input."""

    input: Tensor
    start: int
    stop: int | None = None


@dataclass(frozen=True)
class HostFunctions:
    """What the passes borrow from whoever runs the model.

    Attributes:
        attention: query, key, value (batch, heads, tokens, head_dim) and the block -> (batch, tokens, hidden).
        rope: rotates (batch, heads, tokens, head_dim) by the model's position table.
        linear_rows: some output features of a linear layer, for several inputs.
    """

    attention: Callable[[Tensor, Tensor, Tensor, Any], Tensor]
    rope: Callable[[Tensor, Tensor], Tensor]
    linear_rows: Callable[[nn.Module, Sequence[Rows]], list[Tensor]]


def reference_keys_values(model: Any, tokens: Tensor, ids: Tensor, host: HostFunctions) -> Iterator[KeyValue]:
    """Keys (after RoPE) and values of all references, one pair a block: first the double blocks, then the single.

    Args:
        model: the diffusion model, with Klein's module names.
        tokens: (1, tokens, channels), every reference's patches in order.
        ids: (1, tokens, axes), their positions.

    Yields:
        contiguous (1, heads, tokens, head_dim) pairs; the next block runs when the next pair is asked for.
    """
    x = model.img_in(tokens)
    vec = model.time_in(_embedding_of_timestep_zero(x))
    pe = model.pe_embedder(ids)
    modulations = model.double_stream_modulation_img(vec)
    for block in model.double_blocks:
        q, k, v = _double_qkv(block, x, modulations[0], pe, host)
        yield k, v
        x = _finish_double(block, x, host.attention(q, k, v, block), modulations)
    x = finite(x)
    modulation, _ = model.single_stream_modulation(vec)
    *blocks, last = model.single_blocks
    for block in blocks:
        q, k, v, mlp = _single_qkv(block, x, modulation, pe, host)
        yield k, v
        attended = host.attention(q, k, v, block)
        x = finite(x + modulation.gate * block.linear2(torch.cat((attended, block.mlp_act(mlp)), dim=2)))
    yield _last_key_value(last, x, modulation, pe, host)


def finish_with_image_rows(
    block: Any, x: Tensor, modulation: Any, pe: Tensor, text_tokens: int, reference: KeyValue, host: HostFunctions
) -> Tensor:
    """The last single block, in place, for the image rows only: what it makes of text rows is never read.

    Args:
        x: (batch, text + image tokens, hidden). Its text rows stay as they were.
        reference: the references' key and value in this block.
    """
    hidden = block.hidden_size
    modulated = modulate(block.pre_norm(x), modulation)
    image = modulated[:, text_tokens:]
    kv, q, mlp = host.linear_rows(
        block.linear1, (Rows(modulated, hidden, 3 * hidden), Rows(image, 0, hidden), Rows(image, 3 * hidden))
    )
    k, v = heads_of(kv, 2, block.num_heads)
    (q,) = heads_of(q, 1, block.num_heads)
    q, k = block.norm(q, k, v)
    q, k = host.rope(q, pe[:, :, text_tokens:]), host.rope(k, pe)
    k, v = append(k, v, reference)
    attended = host.attention(q, k, v, block)
    x[:, text_tokens:] += modulation.gate * block.linear2(torch.cat((attended, block.mlp_act(mlp)), dim=2))
    return finite(x)


def append(key: Tensor, value: Tensor, reference: KeyValue) -> KeyValue:
    """Denoising rows' keys and values with the references' behind them; softmax does not mind the order."""
    batch = key.shape[0]
    reference_key, reference_value = (t.expand(batch, -1, -1, -1) for t in reference)
    return torch.cat((key, reference_key), dim=2), torch.cat((value, reference_value), dim=2)


def modulate(x: Tensor, modulation: Any) -> Tensor:
    """x * (1 + scale) + shift, in one pass."""
    return torch.addcmul(modulation.shift, x, 1 + modulation.scale)


def heads_of(packed: Tensor, count: int, heads: int) -> Tensor:
    """(batch, tokens, count * heads * head_dim) -> (count, batch, heads, tokens, head_dim)."""
    return packed.unflatten(2, (count, heads, -1)).permute(2, 0, 3, 1, 4)


def finite(x: Tensor) -> Tensor:
    """Float16 overflows in Klein; the host clamps it between blocks and so do we."""
    return torch.nan_to_num(x, nan=0.0, posinf=FP16_LIMIT, neginf=-FP16_LIMIT) if x.dtype == torch.float16 else x


def _embedding_of_timestep_zero(like: Tensor) -> Tensor:
    """The sinusoidal embedding of t = 0, (1, 256): cosines of 0, then sines of 0."""
    half = torch.ones(1, TIME_CHANNELS // 2, dtype=like.dtype, device=like.device)
    return torch.cat((half, torch.zeros_like(half)), dim=1)


def _double_qkv(
    block: Any, x: Tensor, modulation: Any, pe: Tensor, host: HostFunctions
) -> tuple[Tensor, Tensor, Tensor]:
    attention = block.img_attn
    q, k, v = heads_of(attention.qkv(modulate(block.img_norm1(x), modulation)), 3, block.num_heads)
    q, k = attention.norm(q, k, v)
    return host.rope(q, pe), host.rope(k, pe), v.contiguous()


def _finish_double(block: Any, x: Tensor, attended: Tensor, modulations: Any) -> Tensor:
    first, second = modulations
    x = x + first.gate * block.img_attn.proj(attended)
    return x + second.gate * block.img_mlp(modulate(block.img_norm2(x), second))


def _single_qkv(
    block: Any, x: Tensor, modulation: Any, pe: Tensor, host: HostFunctions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    packed = block.linear1(modulate(block.pre_norm(x), modulation))
    qkv, mlp = packed.split([3 * block.hidden_size, packed.shape[2] - 3 * block.hidden_size], dim=2)
    q, k, v = heads_of(qkv, 3, block.num_heads)
    q, k = block.norm(q, k, v)
    return host.rope(q, pe), host.rope(k, pe), v.contiguous(), mlp


def _last_key_value(block: Any, x: Tensor, modulation: Any, pe: Tensor, host: HostFunctions) -> KeyValue:
    hidden = block.hidden_size
    modulated = modulate(block.pre_norm(x), modulation)
    (kv,) = host.linear_rows(block.linear1, (Rows(modulated, hidden, 3 * hidden),))
    k, v = heads_of(kv, 2, block.num_heads)
    k = block.norm.key_norm(k).to(v)
    return host.rope(k, pe), v.contiguous()
