"""How far every block's output is from float32's, the same weights and inputs.

The float32 chain starts from what the host gives the first block and rounds nothing between blocks; quantised weights
are taken as what they stand for, so that what is compared is the arithmetic and not the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .steps import Runs

Place = tuple[str, int]
Outputs = dict[Place, Tensor]


def relative(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, in parts of the wanted."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))


class Watch:
    """Stands around every block and sees the picture's stream behind it."""

    def __init__(self, see: Callable[[Place, Tensor], None]) -> None:
        self.see = see

    def on(self, model: Any) -> Any:
        clone = model.clone()
        for place in places_of(clone):
            clone.set_model_patch_replace(self._around(place), "dit", *place)
        return clone

    def _around(self, place: Place) -> Callable[..., dict[str, Any]]:
        def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            out: dict[str, Any] = extra["original_block"](args)
            self.see(place, out["img"])
            return out

        return block


class Float32Chain:
    """The blocks in float32, each with a float32 copy of its weights while it runs."""

    def __init__(self) -> None:
        self.outputs: Outputs = {}
        self._streams: list[Tensor] = []

    def on(self, model: Any) -> Any:
        clone = model.clone()
        diffusion = clone.get_model_object("diffusion_model")
        for place in places_of(clone):
            clone.set_model_patch_replace(self._block(place, diffusion), "dit", *place)
        return clone

    def _block(self, place: Place, diffusion: Any) -> Callable[..., dict[str, Any]]:
        from klein9b.nodes.host.own_blocks import block_at

        def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            block = block_at(diffusion, place)
            if place == ("double_block", 0):
                self._streams = [args["txt"].float(), args["img"].float()]
            return self._double(block, args, place) if place[0] == "double_block" else self._single(block, args, place)

        return run

    def _double(self, block: Any, args: dict[str, Any], place: Place) -> dict[str, Any]:
        from klein9b.klein.transformer import Stream, double_block

        img, txt = ([_float32(one) for one in of] for of in args["vec"])
        streams = Stream("txt", self._streams[0], tuple(txt)), Stream("img", self._streams[1], tuple(img))
        double_block(block, streams, args["pe"].float(), _functions())
        self.outputs[place] = self._streams[1].clone()
        like = args["img"]
        return {"txt": self._streams[0].to(like), "img": self._streams[1].to(like)}

    def _single(self, block: Any, args: dict[str, Any], place: Place) -> dict[str, Any]:
        from klein9b.klein.transformer import single_block

        if len(self._streams) == 2:
            self._streams = [torch.cat(self._streams, dim=1)]
        single_block(block, self._streams[0], _float32(args["vec"]), args["pe"].float(), _functions())
        self.outputs[place] = self._streams[0].clone()
        return {"img": self._streams[0].to(args["img"])}


class _Modulation:
    def __init__(self, of: Any) -> None:
        self.shift, self.scale, self.gate = (getattr(of, name).float() for name in ("shift", "scale", "gate"))


def _float32(modulation: Any) -> _Modulation:
    return _Modulation(modulation)


def _functions() -> Any:
    """As the blocks borrow them, all in float32."""
    from klein9b.kernels.eager.heads_norm_rope import RmsNorm
    from klein9b.kernels.ops import Ops
    from klein9b.klein.transformer import BlockFunctions

    def features(layer: nn.Module, x: Tensor, wanted: Any) -> list[Tensor]:
        matrix = matrix_of(layer)
        return [nn.functional.linear(one.tokens.of(x), matrix[one.start : one.stop]) for one in wanted]

    return BlockFunctions(
        attention=lambda q, k, v, block: nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2),
        norm=lambda norm, like: RmsNorm(norm.weight.to(like), norm.eps),
        linear=lambda layer, x: nn.functional.linear(x, matrix_of(layer)),
        linear_features=features,
        wanted=lambda layer, x: None,
        divisible=lambda layer: False,
        ops=Ops(),
    )


def matrix_of(layer: Any) -> Tensor:
    """What the layer's weight stands for, in float32."""
    weight = layer.weight
    unpacked = weight.dequantize() if hasattr(weight, "dequantize") and hasattr(weight, "_params") else weight
    made: Tensor = unpacked.float()
    return made


def places_of(model: Any) -> list[Place]:
    from klein9b.nodes.host.own_blocks import places

    return places(model.get_model_object("diffusion_model"))


def errors(ways: dict[str, Any], model: Any, runs: Runs) -> dict[str, dict[str, float]]:
    """Of one evaluation: each way's relative error behind every block, by way and block."""
    chain = Float32Chain()
    runs.visit(chain.on(model), steps=1)
    found: dict[str, dict[str, float]] = {}
    for name, way in ways.items():
        seen: dict[str, float] = {}

        def see(place: Place, out: Tensor, seen: dict[str, float] = seen) -> None:
            seen["{} {}".format(*place)] = relative(out, chain.outputs[place])

        runs.visit(Watch(see).on(way), steps=1)
        found[name] = seen
    return found
