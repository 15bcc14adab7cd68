"""Klein's module tree in plain torch, with the stand-in's weights, and what its blocks borrow."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from klein9b.kernels.eager.heads_norm_rope import RmsNorm
from klein9b.kernels.ops import Ops
from klein9b.klein.transformer import BlockFunctions

from .transformer import HEAD_DIM, LATENT_CHANNELS, count, transformer

HIDDEN, HEADS = 256, 2
EPS = 1e-6
THETA, AXES = 2000, 4


def drawn(*shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_norm, self.key_norm = (nn.RMSNorm(HEAD_DIM, eps=EPS) for _ in range(2))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj, self.norm = dense(3), dense(1), Norms()


class Double(nn.Module):
    num_heads = HEADS

    def __init__(self):
        super().__init__()
        self.img_attn, self.txt_attn = Attention(), Attention()
        self.img_mlp, self.txt_mlp = (nn.Sequential(dense(6), nn.Identity(), dense(1, 3)) for _ in range(2))


class Single(nn.Module):
    num_heads, hidden_size = HEADS, HIDDEN

    def __init__(self):
        super().__init__()
        self.linear1, self.linear2, self.norm = dense(9), dense(1, 4), Norms()


class Modulation(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.lin = dense(3 * layers)

    def forward(self, vec):
        parts = self.lin(silu(vec))[:, None].chunk(self.lin.out_features // HIDDEN, dim=-1)
        layers = [SimpleNamespace(shift=s, scale=c, gate=g) for s, c, g in zip(*(parts[i::3] for i in range(3)))]
        return tuple(layers) if len(layers) == 2 else (*layers, None)


class TimeIn(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(256, HIDDEN, bias=False), dense(1)

    def forward(self, x):
        return self.out_layer(silu(self.in_layer(x)))


class Klein(nn.Module):
    def __init__(self, doubles, singles):
        super().__init__()
        self.img_in = nn.Linear(LATENT_CHANNELS, HIDDEN, bias=False)
        self.time_in = TimeIn()
        self.double_stream_modulation_img, self.double_stream_modulation_txt = Modulation(2), Modulation(2)
        self.single_stream_modulation = Modulation(1)
        self.double_blocks = nn.ModuleList(Double() for _ in range(doubles))
        self.single_blocks = nn.ModuleList(Single() for _ in range(singles))

    @staticmethod
    def pe_embedder(ids):
        return torch.cat([position_table(ids[..., axis]) for axis in range(AXES)], dim=-3)[:, None]


def dense(out, fan_in=1):
    return nn.Linear(fan_in * HIDDEN, out * HIDDEN, bias=False)


def position_table(positions):
    """(batch, tokens) -> (batch, tokens, features / 2, 2, 2) for one axis."""
    features = HEAD_DIM // AXES
    frequencies = THETA ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
    angle = positions[..., None].double() * frequencies
    matrix = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), dim=-1)
    return matrix.unflatten(-1, (2, 2)).float()


def weights_of(*, seed=9, doubles=2, singles=3):
    return transformer(hidden=HIDDEN, double_blocks=doubles, single_blocks=singles, seed=seed)


def klein(weights, dtype=torch.float32):
    """The modules with a state dict of that width, which uses BFL's own names."""
    names = {name.replace("_norm.scale", "_norm.weight"): tensor for name, tensor in weights.items()}
    model = Klein(count(names, "double_blocks"), count(names, "single_blocks"))
    model.load_state_dict({name: names[name] for name in model.state_dict()})
    return model.to(dtype).requires_grad_(False)


def attention(q, k, v, block):
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def linear_features(layer, x, wanted):
    return [linear(one.tokens.of(x), layer.weight[one.start : one.stop]) for one in wanted]


@dataclass(frozen=True)
class Pair:
    """Keys and values for a block to attend to."""

    key: Tensor
    value: Tensor

    @property
    def tokens(self):
        return self.key.shape[2]

    def write_(self, key, value, ops):
        ops.write_kv_(key, value, (self.key, self.value))


FUNCTIONS = BlockFunctions(
    attention=attention,
    norm=lambda norm, like: RmsNorm(norm.weight, norm.eps),
    linear=lambda layer, x: layer(x),
    linear_features=linear_features,
    wanted=lambda layer, x: None,
    divisible=lambda layer: True,
    ops=Ops(),
)
