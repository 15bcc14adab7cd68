"""FLUX.2's blocks and the reference pass in float64, written from the formulas and straight over the state dict."""

import math

import torch

from standins.plain_klein import AXES, EPS, HEAD_DIM, HIDDEN, THETA


def silu(x):
    return x / (1 + torch.exp(-x))


def layer_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


def rms_norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def swiglu(x):
    width = x.shape[-1] // 2
    return silu(x[..., :width]) * x[..., width:]


def turns(ids):
    """(batch, tokens, axes) -> one complex number for each pair of features, (batch, 1, tokens, head_dim / 2)."""
    pairs = HEAD_DIM // AXES // 2
    frequency = torch.tensor([THETA ** (-i / pairs) for i in range(pairs)], dtype=torch.float64)
    return torch.exp(1j * (ids.double()[..., None] * frequency).flatten(2))[:, None]


def rope(x, turn):
    pairs = torch.complex(x[..., 0::2], x[..., 1::2]) * turn
    return torch.stack((pairs.real, pairs.imag), dim=-1).flatten(-2)


def attention(q, k, v):
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(HEAD_DIM), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class ByHand:
    """One model's weights; inputs and results in float64."""

    def __init__(self, weights):
        self.weights = {name: tensor.double() for name, tensor in weights.items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T

    def modulation(self, name, vec, row):
        """shift, scale and gate number `row` of one modulation."""
        parts = self.linear(f"{name}.lin", silu(vec))[:, None].split(HIDDEN, dim=-1)
        return parts[3 * row : 3 * row + 3]

    def heads(self, name, x, turn):
        """Queries, keys and values from packed features."""
        q, k, v = (part.unflatten(2, (-1, HEAD_DIM)).transpose(1, 2) for part in x.split(HIDDEN, dim=2))
        scale = {kind: self.weights[f"{name}.{kind}_norm.scale"] for kind in ("query", "key")}
        return rope(rms_norm(q, scale["query"]), turn), rope(rms_norm(k, scale["key"]), turn), v

    def double(self, index, streams, turn, reference=None):
        """streams: name -> (x, the first modulation, the second), in order. Their new x, keys and values."""
        block, parts, start = f"double_blocks.{index}", [], 0
        for name, (x, (shift, scale, _), _) in streams.items():
            packed = self.linear(f"{block}.{name}_attn.qkv", layer_norm(x) * (1 + scale) + shift)
            parts.append(self.heads(f"{block}.{name}_attn.norm", packed, turn[:, :, start : start + x.shape[1]]))
            start += x.shape[1]
        q, k, v = (torch.cat(part, dim=2) for part in zip(*parts))
        attended, out, start = attention(q, *with_reference(k, v, reference)), {}, 0
        for name, (x, (_, _, gate), (shift, scale, second_gate)) in streams.items():
            x = x + gate * self.linear(f"{block}.{name}_attn.proj", attended[:, start : start + x.shape[1]])
            up = self.linear(f"{block}.{name}_mlp.0", layer_norm(x) * (1 + scale) + shift)
            out[name] = x + second_gate * self.linear(f"{block}.{name}_mlp.2", swiglu(up))
            start += x.shape[1]
        return out, k, v

    def single(self, index, x, modulation, turn, reference=None):
        """The new x, keys and values."""
        block, (shift, scale, gate) = f"single_blocks.{index}", modulation
        packed = self.linear(f"{block}.linear1", layer_norm(x) * (1 + scale) + shift)
        q, k, v = self.heads(f"{block}.norm", packed[..., : 3 * HIDDEN], turn)
        attended = attention(q, *with_reference(k, v, reference))
        both = torch.cat((attended, swiglu(packed[..., 3 * HIDDEN :])), dim=2)
        return x + gate * self.linear(f"{block}.linear2", both), k, v

    def reference_keys_values(self, tokens, ids, *, timestep=0.0):
        """Of references that attend to each other only, at one timestep."""
        angle = 1000 * timestep * torch.tensor([10000.0 ** (-i / 128) for i in range(128)], dtype=torch.float64)
        embedding = torch.cat((angle.cos(), angle.sin()))[None]
        vec = self.linear("time_in.out_layer", silu(self.linear("time_in.in_layer", embedding)))
        x, turn, pairs = self.linear("img_in", tokens.double()), turns(ids), []
        for index in range(self.count("double_blocks")):
            modulations = (self.modulation("double_stream_modulation_img", vec, row) for row in range(2))
            out, k, v = self.double(index, {"img": (x, *modulations)}, turn)
            x = out["img"]
            pairs.append((k, v))
        for index in range(self.count("single_blocks")):
            x, k, v = self.single(index, x, self.modulation("single_stream_modulation", vec, 0), turn)
            pairs.append((k, v))
        return pairs

    def count(self, kind):
        return len({name.split(".")[1] for name in self.weights if name.startswith(kind)})


def with_reference(k, v, reference):
    if reference is None:
        return k, v
    return tuple(torch.cat((own, more.expand(own.shape[0], -1, -1, -1)), dim=2) for own, more in zip((k, v), reference))
