"""Klein's blocks at full size without ComfyUI: plain modules, our transformer, the ladder's ops beside the eager ones.

There is no stock to compare with here: what is measured is what the ladder gains over this pack's own eager ops.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .cells import BF16, EXACT, FAST, MOST_ROUNDS, counted
from .context import Context, first_line, is_lost
from .scale import HEAD_DIM, MLP_RATIO, Scale
from .timing import Clock, Visit, clock_for, interleaved, ratio_noise

EAGER, EAGER_AGAIN = "eager ops", "eager ops again"
WHERE = "blocks alone, without ComfyUI"
EPS = 1e-6
STD = 0.02


class Plain:
    """The blocks' modules with random weights, and the inputs of one evaluation."""

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self.scale, self.device, self.dtype = scale, device, dtype
        self.doubles = [self._double() for _ in range(scale.doubles)]
        self.singles = [self._single() for _ in range(scale.singles)]
        self.modulations = [self._modulation() for _ in range(5)]

    def scene(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Text, picture and their position table."""
        text = self.scale.text
        streams = (self.drawn(1, length, self.scale.hidden) for length in (text, tokens - text))
        return (*streams, position_table(tokens, self.device))

    def evaluate(self, scene: tuple[Tensor, Tensor, Tensor], ops: Any) -> Tensor:
        """The output of all blocks; what a scene holds stays as it is."""
        from klein9b.klein.transformer import Stream, double_block, single_block

        first, second, third, fourth, last = self.modulations
        txt, img, pe = scene[0].clone(), scene[1].clone(), scene[2]
        functions = functions_with(ops)
        for block in self.doubles:
            streams = Stream("txt", txt, (first, second)), Stream("img", img, (third, fourth))
            double_block(block, streams, pe, functions)
        x = torch.cat((txt, img), dim=1)
        for block in self.singles:
            single_block(block, x, last, pe, functions)
        return x

    def drawn(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.empty(shape, device=self.device, dtype=self.dtype).normal_(0, std)

    def _linear(self, out: int, features: int) -> nn.Linear:
        layer = nn.Linear(features, out, bias=False, device="meta", dtype=self.dtype)
        layer.weight = nn.Parameter(self.drawn(out, features, std=STD), requires_grad=False)
        return layer

    def _norms(self) -> Any:
        norms = (nn.RMSNorm(HEAD_DIM, eps=EPS, device=self.device, dtype=self.dtype) for _ in range(2))
        query, key = (norm.requires_grad_(False) for norm in norms)
        return SimpleNamespace(query_norm=query, key_norm=key)

    def _double(self) -> Any:
        wide, mlp = self.scale.hidden, MLP_RATIO * self.scale.hidden
        block = SimpleNamespace(num_heads=self.scale.heads)
        for name in ("img", "txt"):
            attn = SimpleNamespace(qkv=self._linear(3 * wide, wide), proj=self._linear(wide, wide), norm=self._norms())
            setattr(block, f"{name}_attn", attn)
            setattr(block, f"{name}_mlp", [self._linear(2 * mlp, wide), None, self._linear(wide, mlp)])
        return block

    def _single(self) -> Any:
        wide, mlp = self.scale.hidden, MLP_RATIO * self.scale.hidden
        first, second = self._linear(3 * wide + 2 * mlp, wide), self._linear(wide, wide + mlp)
        shape = {"num_heads": self.scale.heads, "hidden_size": wide}
        return SimpleNamespace(linear1=first, linear2=second, norm=self._norms(), **shape)

    def _modulation(self) -> Any:
        shift, scale, gate = (self.drawn(1, 1, self.scale.hidden, std=0.3) for _ in range(3))
        return SimpleNamespace(shift=shift, scale=scale, gate=gate)


def functions_with(ops: Any) -> Any:
    from klein9b.kernels.eager.heads_norm_rope import RmsNorm
    from klein9b.klein.transformer import BlockFunctions

    def attention(q: Tensor, k: Tensor, v: Tensor, block: Any) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def features(layer: nn.Module, x: Tensor, wanted: Any) -> list[Tensor]:
        return [nn.functional.linear(one.tokens.of(x), layer.weight[one.start : one.stop]) for one in wanted]

    return BlockFunctions(
        attention=attention,
        norm=lambda norm, like: RmsNorm(norm.weight, norm.eps),
        linear=lambda layer, x: layer(x),
        linear_features=features,
        wanted=lambda layer, x: None,
        divisible=lambda layer: True,
        ops=ops,
    )


def position_table(tokens: int, device: torch.device) -> Tensor:
    """(1, 1, tokens, head_dim / 2, 2, 2), of positions on a line."""
    rates = 2000.0 ** -torch.linspace(0, 1, HEAD_DIM // 2, device=device)
    angles = torch.arange(tokens, device=device)[:, None] * rates
    table = torch.stack((angles.cos(), -angles.sin(), angles.sin(), angles.cos()), dim=-1)
    return table.reshape(1, 1, tokens, HEAD_DIM // 2, 2, 2)


def plain_cells(context: Context) -> None:
    """As cells of the matrix, in bf16, for as many references as there is time for."""
    blocks = Plain(context.scale, context.device, context.dtype)
    for references in (0, 2, 1, 4):
        if context.deadline.left < 30:
            context.skip(f"{WHERE}, {counted(references)}", "its time is over")
            return
        try:
            row = measured(context, blocks, references)
        except Exception as error:
            context.skip(f"{WHERE}, {counted(references)}", first_line(error))
            if is_lost(error):
                raise
            continue
        context.add("cell", **row)
        context.say("\n".join(console(row)))


def measured(context: Context, blocks: Plain, references: int) -> dict[str, Any]:
    from klein9b.kernels.ops import Ops

    side, rounds = context.scale.sides[0], 2 if context.dry else MOST_ROUNDS
    tokens, clock = context.scale.tokens(side, references), clock_for(context.device)
    like = torch.empty(1, 1, 1, device=context.device, dtype=context.dtype)
    every = {EAGER: Ops(), EAGER_AGAIN: Ops()} | {kind: ladder_ops(like, kind == EXACT) for kind in (EXACT, FAST)}
    scene = blocks.scene(tokens)
    steps = 1 if context.dry else 4
    ways = {kind: partial(visit, blocks, scene, ops, clock, steps) for kind, ops in every.items()}
    for way in ways.values():
        way()
    timed = interleaved(ways, rounds)
    return {
        "cell": f"{WHERE}, bf16, {side}x{side}, {counted(references)}",
        "side": side,
        "references": references,
        "mode": WHERE,
        "rounds": rounds,
        "noise": ratio_noise(timed[EAGER], timed[EAGER_AGAIN]),
        "flops": context.scale.flops(side, references),
        "notes": [],
        "failed": [],
        "ways": [row_of(kind, one) for kind, one in timed.items()],
    }


@torch.inference_mode()
def visit(blocks: Plain, scene: tuple[Tensor, Tensor, Tensor], ops: Any, clock: Clock, steps: int) -> Visit:
    clock.begin()
    for _ in range(steps):
        blocks.evaluate(scene, ops)
        clock.lap()
    return Visit(clock.seconds(), clock.peak())


def row_of(kind: str, timed: Any) -> dict[str, Any]:
    numbers = {"picture": timed.run, "first": timed.first, "step": timed.later, "spread": timed.spread}
    counted = {"steps timed": sum(len(one.seconds) for one in timed.visits), "peak": timed.peak}
    whole = {"compiling": None, "left to the host": "", "streamed": 0}
    return {"precision": BF16, "way": kind, **numbers, **counted, **whole}


def ladder_ops(like: Tensor, exact: bool) -> Any:
    from klein9b.kernels.eager.rope import rope
    from klein9b.kernels.ladder import ops_for

    return ops_for(like, exact=exact, rotation=rope, int8=False, fp8=False).ops


def console(row: dict[str, Any]) -> Iterator[str]:
    yield f"  {row['cell']}"
    eager = next(one["picture"] for one in row["ways"] if one["way"] == EAGER)
    for one in row["ways"]:
        yield f"    {one['way']:<32}{one['picture']:9.4f} s {eager / one['picture']:6.3f}x of the eager ops"
