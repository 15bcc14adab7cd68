"""A test-only custom node pack: shrinks the host's Qwen3-8B, feeds odd inputs, counts encodes, takes its time,
renames what is inside the host, counts what lives there."""

import gc
import os
import sys
import time
from pathlib import Path

import comfy.sd
import comfy.utils
import nodes
import torch
from aiohttp import web
from comfy_api.v0_0_2 import ComfyExtension, io
from server import PromptServer

sys.path.append(str(Path(__file__).resolve().parents[2]))
from standins.text_encoder import shrink_qwen3_8b

from .remembered import remember_loads
from .renamed import rename

shrink_qwen3_8b()

VAE_ENCODES = []
LOADS = []
TEXT_ENCODES = []
GIVE_BACK = []


def _count_vae_encodes() -> None:
    encode = comfy.sd.VAE.encode

    def counted(self, pixels):
        VAE_ENCODES.append(tuple(pixels.shape))
        return encode(self, pixels)

    comfy.sd.VAE.encode = counted


def _count_loads() -> None:
    load = comfy.utils.load_torch_file

    def counted(path, *args, **options):
        LOADS.append(str(path))
        return load(path, *args, **options)

    comfy.utils.load_torch_file = counted


def _count_text_encodes() -> None:
    encode = comfy.sd.CLIP.encode_from_tokens

    def counted(self, *args, **kwargs):
        TEXT_ENCODES.append(len(TEXT_ENCODES))
        return encode(self, *args, **kwargs)

    comfy.sd.CLIP.encode_from_tokens = counted


_count_vae_encodes()
_count_loads()
_count_text_encodes()
if "KLEIN9B_PROBE_REMEMBERS" in os.environ:
    remember_loads()


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


class ProbeLatents(io.ComfyNode):
    """As ProbeLatent, of a list of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeLatents",
            inputs=[io.Latent.Input("latents"), io.String.Input("path")],
            outputs=[],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def execute(cls, latents: list[dict], path: list[str]) -> io.NodeOutput:
        torch.save([latent["samples"] for latent in latents], path[0])
        return io.NodeOutput()


class ProbeSleep(io.ComfyNode):
    """Keeps the executor busy as a sampler does, at most until the file `until` is there, and may then fail."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeSleep",
            inputs=[
                io.Float.Input("seconds"),
                io.String.Input("until", default=""),
                io.Boolean.Input("fails", default=False),
            ],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, seconds: float, until: str, fails: bool) -> io.NodeOutput:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (until and Path(until).exists()):
            time.sleep(0.02)
        if fails:
            raise RuntimeError("ProbeSleep was told to fail")
        return io.NodeOutput(f"{seconds} s")

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return time.monotonic()


class ProbeImage(io.ComfyNode):
    """An IMAGE whose every value is `value`, which may be nan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeImage",
            inputs=[io.String.Input("value"), io.Int.Input("side", default=64)],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, value: str, side: int) -> io.NodeOutput:
        return io.NodeOutput(torch.full((1, side, side, 3), float(value)))


class ProbeText(io.ComfyNode):
    """Puts a STRING into the history."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeText", inputs=[io.String.Input("text")], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": [text]})


@PromptServer.instance.routes.get("/klein9b_probe/vae_encodes")
async def vae_encodes(_request: web.Request) -> web.Response:
    """Pixel shapes of every VAE encode since this process started."""
    return web.json_response(VAE_ENCODES)


@PromptServer.instance.routes.get("/klein9b_probe/loads")
async def loads(_request: web.Request) -> web.Response:
    """Weights files read since this process started."""
    return web.json_response(LOADS)


@PromptServer.instance.routes.get("/klein9b_probe/text_encodes")
async def text_encodes(_request: web.Request) -> web.Response:
    """One for every prompt encoded since this process started."""
    return web.json_response(TEXT_ENCODES)


@PromptServer.instance.routes.get("/klein9b_probe/alive")
async def alive(request: web.Request) -> web.Response:
    """How many objects of each class named in `classes` there are, and bytes of references that are kept."""
    gc.collect()
    names = request.query["classes"].split(",")
    found = [thing for thing in gc.get_objects() if type(thing).__name__ in names]
    counts = {name: sum(type(thing).__name__ == name for thing in found) for name in names}
    kept = sum(thing.held_bytes for thing in found if type(thing).__name__ == "ReferenceStore")
    return web.json_response(counts | {"kept": kept})


@PromptServer.instance.routes.post("/klein9b_probe/rename")
async def rename_inside(request: web.Request) -> web.Response:
    """Renames `names` inside the host as the pack in `folder` sees them, in place of the names before, and loads that
    pack as at a start. Answers with the ids of those that came."""
    asked = await request.json()
    pack = asked["folder"].replace(".", "_x_")
    while GIVE_BACK:
        GIVE_BACK.pop()()
    for name in [one for one in sys.modules if one.partition(".")[0] == pack]:
        del sys.modules[name]
    for node_id in _nodes_of(pack):
        del nodes.NODE_CLASS_MAPPINGS[node_id]
    GIVE_BACK.extend(rename(name, pack) for name in asked["names"])
    await nodes.load_custom_node(asked["folder"])
    return web.json_response(_nodes_of(pack))


def _nodes_of(pack: str) -> list[str]:
    return [one for one, kind in nodes.NODE_CLASS_MAPPINGS.items() if kind.__module__.partition(".")[0] == pack]


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [ProbeConditioning, ProbeLatent, ProbeLatents, ProbeSleep, ProbeImage, ProbeText]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
