"""FLUX.2's double and single block, each written once over the ops in kernels/.

Works on any module tree with Klein's names. Linear layers are called through whoever runs the model, so whatever the
host does to them (quantisation, offloading, LoRA) holds here too; norms and activations are not, the ops do their work.
A block writes its result into the tensors it is given, as the host's own blocks do. Attention may see keys and values
from elsewhere: `reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..kernels.eager.append_kv import KeyValue
from ..kernels.eager.heads_norm_rope import RmsNorm
from ..kernels.fp8 import Fp8Input, Fp8Rows
from ..kernels.int8 import Int8Input, Int8Rows
from ..kernels.ops import Ops

FP16_LIMIT = 65504

Activation = Tensor | Int8Rows | Fp8Rows
Wanted = Int8Input | Fp8Input
Keep = Callable[[KeyValue], None]


class Modulation(Protocol):
    """What the timestep does to one layer: tensors (batch or 1, 1, hidden)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class Reference(Protocol):
    """Keys (after rotation) and values from elsewhere.

    Attributes:
        tokens: how many.
    """

    @property
    def tokens(self) -> int: ...

    def write_(self, key: Tensor, value: Tensor, ops: Ops) -> None:
        """Into (batch, heads, tokens, head_dim) each, which may be views."""


@dataclass(frozen=True)
class Span:
    """Tokens from `first` to `stop`, None for the last."""

    first: int = 0
    stop: int | None = None

    def within(self, other: Span) -> Span:
        """The same tokens, counted from the other's first."""
        return Span(self.first - other.first, None if self.stop is None else self.stop - other.first)

    def of(self, x: Tensor) -> Tensor:
        """Those tokens of x (batch, tokens, features), a view."""
        return x[:, self.slice]

    def of_activation(self, x: Activation) -> Activation:
        """As `of`."""
        return self.of(x) if isinstance(x, Tensor) else x.part(self.slice)

    @property
    def slice(self) -> slice:
        return slice(self.first, self.stop)


EVERY_TOKEN = Span()


@dataclass(frozen=True)
class Features:
    """What is wanted of a linear layer: its output features `start` to `stop`, for some of the tokens."""

    start: int
    stop: int | None
    tokens: Span


@dataclass(frozen=True)
class BlockFunctions:
    """What the blocks borrow from whoever runs the model.

    Attributes:
        attention: query, key, value (batch, heads, tokens, head_dim) and the block -> (batch, tokens, hidden).
        norm: an RMS norm's module -> its weight as that module would use it on a tensor.
        linear: a linear layer, its input (batch, tokens, features) -> its output.
        linear_features: as `linear` -> the wanted parts of its output.
        wanted: a linear layer, what its input is computed from -> how it wants that input, None for one as it is.
        divisible: whether parts of a linear layer's output cost no more than those parts.
        ops: what the blocks compute with.
        mlp_rows: how many tokens at a time go through an MLP, None for all.
        every_query: attention may look at tokens' places, so that it is given those too whose output nobody reads.
    """

    attention: Callable[[Tensor, Tensor, Tensor, Any], Tensor]
    norm: Callable[[nn.Module, Tensor], RmsNorm]
    linear: Callable[[nn.Module, Activation], Tensor]
    linear_features: Callable[[nn.Module, Activation, Sequence[Features]], list[Tensor]]
    wanted: Callable[[nn.Module, Tensor], Wanted | None]
    divisible: Callable[[nn.Module], bool]
    ops: Ops
    mlp_rows: int | None = None
    every_query: bool = False

    def modulated(self, x: Tensor, by: Modulation, into: nn.Module) -> Activation:
        """x normed and modulated, as the layer `into` wants it."""
        ops, *how = self._ops_before(into, x)
        made: Activation = ops.layer_norm_modulate(x, by.scale, by.shift, *how)
        return made

    def residual_modulated_(self, x: Tensor, y: Tensor, gate: Tensor, by: Modulation, into: nn.Module) -> Activation:
        """x plus gate times y, written into x; then as `modulated`."""
        ops, *how = self._ops_before(into, x)
        made: Activation = ops.gated_residual_norm_(x, y, gate, by.scale, by.shift, *how)
        return made

    def activated(self, mlp: Tensor, attended: Tensor | None, into: nn.Module) -> Activation:
        """The MLP's activation, behind the attention's output where there is one, as the layer `into` wants it."""
        ops, *how = self._ops_before(into, mlp)
        made: Activation = ops.swiglu_concat(mlp, attended, *how)
        return made

    def heads(
        self,
        packed: Tensor,
        norms: Sequence[nn.Module | None],
        pe: Tensor,
        heads: int,
        out: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, ...]:
        """A projection's parts as heads, those with a norm normed and rotated."""
        weights = [None if norm is None else self.norm(norm, packed) for norm in norms]
        return self.ops.heads_norm_rope(packed, weights, pe, heads, out=out)

    def _ops_before(self, layer: nn.Module, x: Tensor) -> tuple[Any, ...]:
        """Those that make the layer's input, and what they are to be told of how it wants that."""
        int8, fp8 = self.ops.int8, self.ops.fp8
        wanted = self.wanted(layer, x) if int8 or fp8 else None
        if isinstance(wanted, Int8Input) and int8:
            return int8, wanted.rotation
        if isinstance(wanted, Fp8Input) and fp8:
            return fp8, wanted
        return (self.ops,)


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
    block: Any,
    streams: Sequence[Stream],
    pe: Tensor,
    functions: BlockFunctions,
    *,
    reference: Reference | None = None,
    keep: Keep | None = None,
) -> None:
    """Streams with weights of their own attend to each other; each one's x is overwritten.

    Args:
        pe: position table of all streams' tokens in order, (batch or 1, 1, tokens, head_dim / 2, 2, 2).
        reference: further keys and values to attend to.
        keep: is given the streams' own keys (after rotation) and values, (batch, heads, tokens, head_dim).
    """
    attended = _double_attention(block, streams, pe, functions, reference, keep)
    lengths = [stream.x.shape[1] for stream in streams]
    for stream, part in zip(streams, attended.split(lengths, dim=1), strict=True):
        _finish_stream(block, stream, part, functions)


def single_block(
    block: Any,
    x: Tensor,
    modulation: Modulation,
    pe: Tensor,
    functions: BlockFunctions,
    *,
    reference: Reference | None = None,
    keep: Keep | None = None,
    computed: Span = EVERY_TOKEN,
    modulated: Activation | None = None,
    following: Any = None,
) -> Activation | None:
    """Attention and MLP side by side; x (batch, tokens, hidden) is overwritten.

    Args:
        pe: position table of x's tokens, (batch or 1, 1, tokens, head_dim / 2, 2, 2).
        reference: further keys and values to attend to.
        keep: is given the tokens' own keys (after rotation) and values, (batch, heads, tokens, head_dim).
        computed: the other tokens are attended to but not computed; they stay as they were.
        modulated: x normed and modulated for this block, where the one before has made it.
        following: the single block that comes next with the same modulation, if it wants its x so.

    Returns:
        x normed and modulated for the following block; None where it has to do that itself.
    """
    if modulated is None:
        modulated = functions.modulated(x, modulation, block.linear1)
    in_spans = functions.mlp_rows is not None and functions.divisible(block.linear1)
    heads, mlp = _projected(block, modulated, functions, computed, mlp=not in_spans)
    needed_again = modulated if in_spans else None
    del modulated
    attended = _single_attention(block, heads, pe, functions, reference, keep, computed)
    del heads
    if needed_again is not None:
        _finish_in_spans(block, x, needed_again, attended, modulation.gate, functions, computed)
        return None
    assert mlp is not None
    activated = functions.activated(mlp, attended, block.linear2)
    del mlp, attended
    output = functions.linear(block.linear2, activated)
    del activated
    if following is None or computed != EVERY_TOKEN or x.dtype == torch.float16:  # which is clamped before it is normed
        finite_(functions.ops.gated_residual_(computed.of(x), output, modulation.gate))
        return None
    return functions.residual_modulated_(x, output, modulation.gate, modulation, following.linear1)


def single_block_keys_values(
    block: Any, x: Tensor, modulation: Modulation, pe: Tensor, functions: BlockFunctions
) -> KeyValue:
    """What `single_block` has kept, without the rest of its work; x stays as it was."""
    modulated, hidden = functions.modulated(x, modulation, block.linear1), block.hidden_size
    (packed,) = functions.linear_features(block.linear1, modulated, (Features(hidden, 3 * hidden, EVERY_TOKEN),))
    k, v = functions.heads(packed, (block.norm.key_norm, None), pe, block.num_heads)
    return k, v


def finite_(x: Tensor) -> Tensor:
    """Float16 overflows in Klein; the host clamps it between blocks and so do we, in place."""
    if x.dtype == torch.float16:
        torch.nan_to_num_(x, nan=0.0, posinf=FP16_LIMIT, neginf=-FP16_LIMIT)
    return x


def _double_attention(
    block: Any,
    streams: Sequence[Stream],
    pe: Tensor,
    functions: BlockFunctions,
    reference: Reference | None,
    keep: Keep | None,
) -> Tensor:
    """All streams' queries, keys and values, each part in one tensor, and what attention makes of them."""
    like, own = streams[0].x, pe.shape[2]
    q = _room(block, like, own, pe)
    k, v = _room_for_keys_values(block, like, pe, reference, functions)
    for stream, start in zip(streams, _starts(streams), strict=True):
        span = slice(start, start + stream.x.shape[1])
        _stream_heads(block, stream, pe[:, :, span], [t[:, :, span] for t in (q, k, v)], functions)
    if keep is not None:
        keep((k[:, :, :own], v[:, :, :own]))
    return functions.attention(q, k, v, block)


def _stream_heads(block: Any, stream: Stream, pe: Tensor, out: Sequence[Tensor], functions: BlockFunctions) -> None:
    attention = stream.part(block, "attn")
    packed = functions.linear(attention.qkv, functions.modulated(stream.x, stream.modulations[0], attention.qkv))
    norms = attention.norm.query_norm, attention.norm.key_norm, None
    functions.heads(packed, norms, pe, block.num_heads, out)


def _starts(streams: Sequence[Stream]) -> list[int]:
    lengths = (stream.x.shape[1] for stream in streams)
    return list(accumulate(lengths, initial=0))[:-1]


def _finish_stream(block: Any, stream: Stream, attended: Tensor, functions: BlockFunctions) -> None:
    x, (first, second) = stream.x, stream.modulations
    up, _, down = stream.part(block, "mlp")
    projected = functions.linear(stream.part(block, "attn").proj, attended)
    modulated = functions.residual_modulated_(x, projected, first.gate, second, up)
    del projected
    for span in _spans(EVERY_TOKEN, x.shape[1], functions.mlp_rows):
        activated = functions.activated(functions.linear(up, span.of_activation(modulated)), None, down)
        functions.ops.gated_residual_(span.of(x), functions.linear(down, activated), second.gate)
        del activated  # or it would live beside the next span's
    if stream.name == "txt":  # The picture's stream is clamped once, behind the last double block.
        finite_(x)


def _projected(
    block: Any, modulated: Activation, functions: BlockFunctions, computed: Span, *, mlp: bool
) -> tuple[Tensor, Tensor | None]:
    """Queries, keys and values packed, and the MLP's input of the computed tokens unless it is made in spans."""
    layer, of_heads = block.linear1, 3 * block.hidden_size
    if mlp and computed == EVERY_TOKEN:
        packed = functions.linear(layer, modulated)
        return packed[..., :of_heads], packed[..., of_heads:]
    wanted = (Features(0, of_heads, EVERY_TOKEN), Features(of_heads, None, computed))
    heads, *rest = functions.linear_features(layer, modulated, wanted if mlp else wanted[:1])
    return heads, rest[0] if mlp else None


def _single_attention(
    block: Any,
    packed: Tensor,
    pe: Tensor,
    functions: BlockFunctions,
    reference: Reference | None,
    keep: Keep | None,
    computed: Span,
) -> Tensor:
    """Of the computed tokens, to all tokens and the reference."""
    room = None if reference is None else _room_for_keys_values(block, packed, pe, reference, functions)
    own = (None, None) if room is None else tuple(t[:, :, : pe.shape[2]] for t in room)
    norms = block.norm.query_norm, block.norm.key_norm, None
    q, k, v = functions.heads(packed, norms, pe, block.num_heads, (None, *own))
    if keep is not None:
        keep((k, v))
    if room is not None:
        k, v = room
    if functions.every_query:
        return computed.of(functions.attention(q, k, v, block))
    return functions.attention(q[:, :, computed.slice], k, v, block)


def _finish_in_spans(
    block: Any,
    x: Tensor,
    modulated: Activation,
    attended: Tensor,
    gate: Tensor,
    functions: BlockFunctions,
    computed: Span,
) -> None:
    """The MLP of some tokens at a time, from its input on."""
    features = Features(3 * block.hidden_size, None, EVERY_TOKEN)
    for span in _spans(computed, x.shape[1], functions.mlp_rows):
        (mlp,) = functions.linear_features(block.linear1, span.of_activation(modulated), (features,))
        activated = functions.activated(mlp, span.within(computed).of(attended), block.linear2)
        del mlp
        finite_(functions.ops.gated_residual_(span.of(x), functions.linear(block.linear2, activated), gate))
        del activated  # or it would live beside the next span's


def _spans(computed: Span, tokens: int, rows: int | None) -> Iterator[Span]:
    """Those tokens, so many at a time."""
    stop = tokens if computed.stop is None else computed.stop
    for first in range(computed.first, stop, rows or max(1, stop)):
        yield Span(first, min(stop, first + rows) if rows else stop)


def _room(block: Any, like: Tensor, tokens: int, pe: Tensor) -> Tensor:
    """For heads of as many features as the position table turns in pairs."""
    return like.new_empty(like.shape[0], block.num_heads, tokens, 2 * pe.shape[3])


def _room_for_keys_values(
    block: Any, like: Tensor, pe: Tensor, reference: Reference | None, functions: BlockFunctions
) -> KeyValue:
    """For the tokens of the position table, with the reference's behind them already."""
    own, further = pe.shape[2], 0 if reference is None else reference.tokens
    key, value = (_room(block, like, own + further, pe) for _ in range(2))
    if reference is not None:
        reference.write_(key[:, :, own:], value[:, :, own:], functions.ops)
    return key, value
