"""FLUX.2's double and single block, each written once over the ops in kernels/.

Works on any module tree with Klein's names. The linear layers are called as modules, so whatever the host does to
them (quantisation, offloading, LoRA) holds here too; norms and activations are not, the ops do their work. A block
writes its result into the tensors it is given, as the host's own blocks do. Attention may see keys and values from
elsewhere: `reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..kernels.eager.append_kv import KeyValue, append_kv
from ..kernels.eager.gated_residual import gated_residual_
from ..kernels.eager.heads_norm_rope import RmsNorm, heads_norm_rope
from ..kernels.eager.layer_norm_modulate import layer_norm_modulate
from ..kernels.eager.swiglu_concat import swiglu_concat

FP16_LIMIT = 65504


class Modulation(Protocol):
    """What the timestep does to one layer: tensors (batch or 1, 1, hidden)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True)
class Features:
    """What is wanted of a linear layer: its output features `start` to `stop`, for the tokens from `first_token` on."""

    start: int
    stop: int | None = None
    first_token: int = 0


@dataclass(frozen=True)
class BlockFunctions:
    """What the blocks borrow from whoever runs the model.

    Attributes:
        attention: query, key, value (batch, heads, tokens, head_dim) and the block -> (batch, tokens, hidden).
        rope: as `kernels.eager.rope`.
        norm: an RMS norm's module -> its weight as that module would use it on a tensor.
        linear_features: a linear layer, its input (batch, tokens, features) -> the wanted parts of its output.
    """

    attention: Callable[[Tensor, Tensor, Tensor, Any], Tensor]
    rope: Callable[[Tensor, Tensor], Tensor]
    norm: Callable[[nn.Module, Tensor], RmsNorm]
    linear_features: Callable[[nn.Module, Tensor, Sequence[Features]], list[Tensor]]


@dataclass(frozen=True)
class Stream:
    """One stream of a double block.

    Attributes:
        name: "txt" or "img", as the names of its modules begin.
        x: (batch, tokens, hidden), overwritten with the result.
        modulations: of its attention and of its MLP.
    """

    name: str
    x: Tensor
    modulations: tuple[Modulation, Modulation]

    def part(self, block: Any, name: str) -> Any:
        return getattr(block, f"{self.name}_{name}")


def double_block(
    block: Any, streams: Sequence[Stream], pe: Tensor, functions: BlockFunctions, *, reference: KeyValue | None = None
) -> KeyValue:
    """Streams with weights of their own attend to each other; each one's x is overwritten.

    Args:
        pe: position table of all streams' tokens in order, (batch or 1, 1, tokens, head_dim / 2, 2, 2).
        reference: further keys (after rotation) and values to attend to.

    Returns:
        the streams' own keys (after rotation) and values, (batch, heads, tokens, head_dim).
    """
    lengths = [stream.x.shape[1] for stream in streams]
    q, k, v = _double_heads(block, streams, pe.split(lengths, dim=2), functions)
    attended = _attend(block, q, k, v, reference, functions)
    for stream, part in zip(streams, attended.split(lengths, dim=1), strict=True):
        _finish_stream(block, stream, part)
    return k, v


def single_block(
    block: Any,
    x: Tensor,
    modulation: Modulation,
    pe: Tensor,
    functions: BlockFunctions,
    *,
    reference: KeyValue | None = None,
    first_query: int = 0,
) -> KeyValue:
    """Attention and MLP side by side; x (batch, tokens, hidden) is overwritten.

    Args:
        pe: position table of x's tokens, (batch or 1, 1, tokens, head_dim / 2, 2, 2).
        reference: further keys (after rotation) and values to attend to.
        first_query: tokens before it are attended to but not computed; they stay as they were.

    Returns:
        the tokens' own keys (after rotation) and values, (batch, heads, tokens, head_dim).
    """
    q, k, v, mlp = _single_heads(block, x, modulation, pe, first_query, functions)
    attended = _attend(block, q, k, v, reference, functions)
    finite_(gated_residual_(x[:, first_query:], block.linear2(swiglu_concat(mlp, attended)), modulation.gate))
    return k, v


def single_block_keys_values(
    block: Any, x: Tensor, modulation: Modulation, pe: Tensor, functions: BlockFunctions
) -> KeyValue:
    """What `single_block` returns, without the rest of its work; x stays as it was."""
    modulated, hidden = layer_norm_modulate(x, modulation.scale, modulation.shift), block.hidden_size
    (packed,) = functions.linear_features(block.linear1, modulated, (Features(hidden, 3 * hidden),))
    k, v = _heads(packed, (block.norm.key_norm, None), pe, block.num_heads, functions)
    return k, v


def finite_(x: Tensor) -> Tensor:
    """Float16 overflows in Klein; the host clamps it between blocks and so do we, in place."""
    if x.dtype == torch.float16:
        torch.nan_to_num_(x, nan=0.0, posinf=FP16_LIMIT, neginf=-FP16_LIMIT)
    return x


def _double_heads(
    block: Any, streams: Sequence[Stream], tables: Sequence[Tensor], functions: BlockFunctions
) -> tuple[Tensor, ...]:
    heads = [_stream_heads(block, stream, table, functions) for stream, table in zip(streams, tables, strict=True)]
    return heads[0] if len(heads) == 1 else tuple(torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))


def _stream_heads(block: Any, stream: Stream, pe: Tensor, functions: BlockFunctions) -> tuple[Tensor, ...]:
    attention, (modulation, _) = stream.part(block, "attn"), stream.modulations
    packed = attention.qkv(layer_norm_modulate(stream.x, modulation.scale, modulation.shift))
    norms = attention.norm.query_norm, attention.norm.key_norm, None
    return _heads(packed, norms, pe, block.num_heads, functions)


def _finish_stream(block: Any, stream: Stream, attended: Tensor) -> None:
    first, second = stream.modulations
    up, _, down = stream.part(block, "mlp")
    x = gated_residual_(stream.x, stream.part(block, "attn").proj(attended), first.gate)
    activated = swiglu_concat(up(layer_norm_modulate(x, second.scale, second.shift)))
    gated_residual_(x, down(activated), second.gate)
    if stream.name == "txt":  # The picture's stream is clamped once, behind the last double block.
        finite_(x)


def _single_heads(
    block: Any, x: Tensor, modulation: Modulation, pe: Tensor, first_query: int, functions: BlockFunctions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and the MLP's input; queries and input from `first_query` on."""
    hidden, query_norm, key_norm = block.hidden_size, block.norm.query_norm, block.norm.key_norm
    modulated = layer_norm_modulate(x, modulation.scale, modulation.shift)
    if not first_query:
        packed = block.linear1(modulated)
        q, k, v = _heads(packed[..., : 3 * hidden], (query_norm, key_norm, None), pe, block.num_heads, functions)
        return q, k, v, packed[..., 3 * hidden :]
    wanted = (
        Features(hidden, 3 * hidden),
        Features(0, hidden, first_token=first_query),
        Features(3 * hidden, first_token=first_query),
    )
    kv, queries, mlp = functions.linear_features(block.linear1, modulated, wanted)
    k, v = _heads(kv, (key_norm, None), pe, block.num_heads, functions)
    (q,) = _heads(queries, (query_norm,), pe[:, :, first_query:], block.num_heads, functions)
    return q, k, v, mlp


def _heads(
    packed: Tensor, norms: Sequence[nn.Module | None], pe: Tensor, heads: int, functions: BlockFunctions
) -> tuple[Tensor, ...]:
    weights = [None if norm is None else functions.norm(norm, packed) for norm in norms]
    return heads_norm_rope(packed, weights, pe, heads, rotation=functions.rope)


def _attend(
    block: Any, q: Tensor, k: Tensor, v: Tensor, reference: KeyValue | None, functions: BlockFunctions
) -> Tensor:
    if reference is not None:
        k, v = append_kv(k, v, reference)
    return functions.attention(q, k, v, block)
