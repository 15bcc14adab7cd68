"""Klein's image stream as modules with BFL's names, in plain torch: all that the reference pass asks of a model.

It computes nothing by itself; blocks are containers. ComfyUI's model has the same names and loads the same weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .transformer import HEAD_DIM, LATENT_CHANNELS, MLP_RATIO, count

EPS = 1e-6
TIME_CHANNELS = 256
ROPE_THETA = 2000
ROPE_AXIS = 32


class Modulation(NamedTuple):
    """Each (batch, 1, hidden)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class Modulations(nn.Module):
    def __init__(self, hidden: int, sets: int) -> None:
        super().__init__()
        self.sets = sets
        self.lin = _linear(hidden, 3 * sets * hidden)

    def forward(self, vec: Tensor) -> tuple[Modulation, Modulation | None]:
        parts = self.lin(nn.functional.silu(vec))[:, None].chunk(3 * self.sets, dim=-1)
        return Modulation(*parts[:3]), Modulation(*parts[3:]) if self.sets == 2 else None


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD_DIM))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (HEAD_DIM,), self.scale, EPS)


class QueryKeyNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Norm(), Norm()

    def forward(self, q: Tensor, k: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class SwiGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return nn.functional.silu(gate) * up


class TimeIn(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = _linear(TIME_CHANNELS, hidden), _linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(nn.functional.silu(self.in_layer(x)))


class Attention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.qkv, self.norm, self.proj = _linear(hidden, 3 * hidden), QueryKeyNorm(), _linear(hidden, hidden)


class DoubleBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.num_heads = hidden // HEAD_DIM
        self.img_norm1, self.img_norm2 = _layer_norm(hidden), _layer_norm(hidden)
        self.img_attn = Attention(hidden)
        mlp = MLP_RATIO * hidden
        self.img_mlp = nn.Sequential(_linear(hidden, 2 * mlp), SwiGLU(), _linear(mlp, hidden))


class SingleBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.num_heads, self.hidden_size = hidden // HEAD_DIM, hidden
        self.pre_norm, self.norm, self.mlp_act = _layer_norm(hidden), QueryKeyNorm(), SwiGLU()
        self.linear1 = _linear(hidden, (3 + 2 * MLP_RATIO) * hidden)
        self.linear2 = _linear((1 + MLP_RATIO) * hidden, hidden)


class ImageStream(nn.Module):
    """What of the diffusion model image tokens pass through; text and the last layer are left out."""

    def __init__(self, hidden: int, double_blocks: int, single_blocks: int) -> None:
        super().__init__()
        self.img_in, self.time_in = _linear(LATENT_CHANNELS, hidden), TimeIn(hidden)
        self.double_stream_modulation_img = Modulations(hidden, sets=2)
        self.single_stream_modulation = Modulations(hidden, sets=1)
        self.double_blocks = nn.ModuleList(DoubleBlock(hidden) for _ in range(double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(hidden) for _ in range(single_blocks))

    @staticmethod
    def pe_embedder(ids: Tensor) -> Tensor:
        """Positions (batch, tokens, 4) -> their rotations (batch, 1, tokens, head_dim / 2, 2, 2), float32."""
        omega = ROPE_THETA ** -(torch.arange(0, ROPE_AXIS, 2, dtype=torch.float64) / ROPE_AXIS)
        angle = (ids.double()[..., None] * omega).flatten(-2)
        c, s = angle.cos(), angle.sin()
        return torch.stack((c, -s, s, c), dim=-1).unflatten(-1, (2, 2)).float()[:, None]


def image_stream(weights: dict[str, Tensor]) -> ImageStream:
    """The modules holding these weights themselves, not copies. KeyError where one is missing."""
    hidden = weights["img_in.weight"].shape[0]
    with torch.device("meta"):
        model = ImageStream(hidden, count(weights, "double_blocks"), count(weights, "single_blocks"))
    model.load_state_dict({name: weights[name] for name in model.state_dict()}, assign=True)
    return model.eval()


def _linear(into: int, out: int) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


def _layer_norm(hidden: int) -> nn.LayerNorm:
    return nn.LayerNorm(hidden, EPS, elementwise_affine=False)
