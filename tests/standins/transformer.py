"""The diffusion model of Klein 9B in BFL's key names, at any width."""

from torch import Tensor

from .draw import Draw

CONTEXT = 12288
LATENT_CHANNELS = 128
HEAD_DIM = 128
MLP_RATIO = 3


def _attention(draw: Draw, hidden: int) -> dict[str, Tensor]:
    return {
        "qkv.weight": draw.matrix(3 * hidden, hidden),
        "norm.query_norm.scale": draw.scale(HEAD_DIM),
        "norm.key_norm.scale": draw.scale(HEAD_DIM),
        "proj.weight": draw.matrix(hidden, hidden),
    }


def _double_block(draw: Draw, hidden: int) -> dict[str, Tensor]:
    block = {}
    for stream in ("img", "txt"):
        block |= {f"{stream}_attn.{k}": v for k, v in _attention(draw, hidden).items()}
        block[f"{stream}_mlp.0.weight"] = draw.matrix(2 * MLP_RATIO * hidden, hidden)
        block[f"{stream}_mlp.2.weight"] = draw.matrix(hidden, MLP_RATIO * hidden)
    return block


def _single_block(draw: Draw, hidden: int) -> dict[str, Tensor]:
    return {
        "linear1.weight": draw.matrix((3 + 2 * MLP_RATIO) * hidden, hidden),
        "linear2.weight": draw.matrix(hidden, (1 + MLP_RATIO) * hidden),
        "norm.query_norm.scale": draw.scale(HEAD_DIM),
        "norm.key_norm.scale": draw.scale(HEAD_DIM),
    }


def _ends(draw: Draw, hidden: int) -> dict[str, Tensor]:
    return {
        "img_in.weight": draw.matrix(hidden, LATENT_CHANNELS),
        "txt_in.weight": draw.matrix(hidden, CONTEXT),
        "time_in.in_layer.weight": draw.matrix(hidden, 256),
        "time_in.out_layer.weight": draw.matrix(hidden, hidden),
        "double_stream_modulation_img.lin.weight": draw.matrix(6 * hidden, hidden),
        "double_stream_modulation_txt.lin.weight": draw.matrix(6 * hidden, hidden),
        "single_stream_modulation.lin.weight": draw.matrix(3 * hidden, hidden),
        "final_layer.adaLN_modulation.1.weight": draw.matrix(2 * hidden, hidden),
        "final_layer.linear.weight": draw.matrix(LATENT_CHANNELS, hidden),
    }


def transformer(
    *, hidden: int = 256, double_blocks: int = 2, single_blocks: int = 2, seed: int = 9
) -> dict[str, Tensor]:
    """A float32 state dict that ComfyUI detects as FLUX.2 and diffusers converts."""
    draw = Draw(seed)
    weights = _ends(draw, hidden)
    for kind, count, block in (
        ("double_blocks", double_blocks, _double_block),
        ("single_blocks", single_blocks, _single_block),
    ):
        for i in range(count):
            weights |= {f"{kind}.{i}.{k}": v for k, v in block(draw, hidden).items()}
    return weights


def count(weights: dict[str, Tensor], kind: str) -> int:
    """How many blocks there are of this kind: "double_blocks" or "single_blocks"."""
    return len({key.split(".")[1] for key in weights if key.startswith(kind)})
