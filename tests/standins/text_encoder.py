"""Qwen3-8B at full width (4096, so that Klein gets its 12288 features) and next to no depth of compute.

The host hard-codes the rest of Qwen3-8B's shape, so its configuration is shrunk to SHRUNK by
``shrink_qwen3_8b`` inside the host's process.
"""

from torch import Tensor

from .draw import Draw

WIDTH = 4096
HEAD_DIM = 128
SHRUNK = {
    "vocab_size": 1024,
    "intermediate_size": 32,
    "num_hidden_layers": 28,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


def _layer(draw: Draw) -> dict[str, Tensor]:
    mlp = SHRUNK["intermediate_size"]
    return {
        "input_layernorm.weight": draw.scale(WIDTH),
        "post_attention_layernorm.weight": draw.scale(WIDTH),
        "self_attn.q_norm.weight": draw.scale(HEAD_DIM),
        "self_attn.k_norm.weight": draw.scale(HEAD_DIM),
        "self_attn.q_proj.weight": draw.matrix(HEAD_DIM, WIDTH),
        "self_attn.k_proj.weight": draw.matrix(HEAD_DIM, WIDTH),
        "self_attn.v_proj.weight": draw.matrix(HEAD_DIM, WIDTH),
        "self_attn.o_proj.weight": draw.matrix(WIDTH, HEAD_DIM),
        "mlp.gate_proj.weight": draw.matrix(mlp, WIDTH),
        "mlp.up_proj.weight": draw.matrix(mlp, WIDTH),
        "mlp.down_proj.weight": draw.matrix(WIDTH, mlp),
    }


def text_encoder(*, seed: int = 3, layers: int = SHRUNK["num_hidden_layers"], head: bool = False) -> dict[str, Tensor]:
    """A float32 state dict that ComfyUI detects as Qwen3-8B; with a head it can write text."""
    draw = Draw(seed)
    weights = {
        "model.embed_tokens.weight": draw.normal(SHRUNK["vocab_size"], WIDTH, std=1.0),
        "model.norm.weight": draw.scale(WIDTH),
    }
    for i in range(layers):
        weights |= {f"model.layers.{i}.{k}": v for k, v in _layer(draw).items()}
    return weights | ({"lm_head.weight": draw.matrix(SHRUNK["vocab_size"], WIDTH)} if head else {})


class FoldedEmbedding:
    """Looks up token ids of the full vocabulary in a small one."""

    def __init__(self, embedding) -> None:
        self.embedding = embedding

    @property
    def weight(self) -> Tensor:
        return self.embedding.weight

    def __call__(self, ids: Tensor, **kwargs) -> Tensor:
        return self.embedding(ids % SHRUNK["vocab_size"], **kwargs)


def shrink_qwen3_8b() -> None:
    """Makes the host in this process build Qwen3-8B at the stand-in's shape."""
    import comfy.text_encoders.llama as llama

    full = llama.Qwen3_8BConfig
    llama.Qwen3_8BConfig = lambda **settings: full(**(SHRUNK | settings))
    llama.Qwen3_8B.get_input_embeddings = lambda self: FoldedEmbedding(self.model.embed_tokens)
