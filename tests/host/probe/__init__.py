"""A test-only custom node pack: shrinks the host's Qwen3-8B, feeds prompt embeddings, counts VAE encodes."""

import sys
from pathlib import Path

import comfy.sd
import torch
from comfy_api.v0_0_2 import ComfyExtension, io

sys.path.append(str(Path(__file__).resolve().parents[2]))
from standins.text_encoder import shrink_qwen3_8b

shrink_qwen3_8b()

VAE_ENCODES = []


def _count_vae_encodes() -> None:
    encode = comfy.sd.VAE.encode

    def counted(self, pixels):
        VAE_ENCODES.append(tuple(pixels.shape))
        return encode(self, pixels)

    comfy.sd.VAE.encode = counted


_count_vae_encodes()


class ProbeConditioning(io.ComfyNode):
    """CONDITIONING from a file that torch.save wrote."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeConditioning",
            inputs=[io.String.Input("path")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, path: str) -> io.NodeOutput:
        return io.NodeOutput([[torch.load(path), {}]])


class ProbeLatent(io.ComfyNode):
    """Writes a LATENT's samples to a file with torch.save."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeLatent",
            inputs=[io.Latent.Input("latent"), io.String.Input("path")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent: dict, path: str) -> io.NodeOutput:
        torch.save(latent["samples"], path)
        return io.NodeOutput(ui={"text": [str(tuple(latent["samples"].shape))]})


class ProbeVaeEncodes(io.ComfyNode):
    """Reports how often any VAE has encoded since this process started."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeVaeEncodes",
            inputs=[],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        return float("nan")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": [str(len(VAE_ENCODES))]})


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ProbeConditioning, ProbeLatent, ProbeVaeEncodes]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
