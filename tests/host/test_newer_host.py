"""A ComfyUI that has moved on: each inner name the pack uses, gone in turn, costs one feature and never the pack."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

import standins
from host.conftest import PHOTOGRAPHS
from host.graphs import klein, node
from host.inner_names import all_inner_names
from host.server import Host, HostError
from host.workflow_files import WORKFLOWS, made_small, nodes_of, read, twin
from segmind_host import environment, remember_jobs, write_key
from standins.transformer import CONTEXT

pytestmark = pytest.mark.host

FOLDER = "klein9b"
NODES = [
    "Klein9BLoader",
    "Klein9BLora",
    "Klein9BReferences",
    "Klein9BReferenceCache",
    "Klein9BScheduler",
    "Klein9BSampler",
]
NODES += ["Klein9BTextEncode", "Klein9BRestore", "Klein9BPlan", "Klein9BQuantize", "Klein9BAccelerate"]
NODES += ["Klein9BReferenceStrength", "Klein9BNegative", "Klein9BCast", "Klein9BInpaint", "Klein9BTiles"]
NODES += ["Klein9BEditReport", "Klein9BFolder", "Klein9BSaveFolder"]
NODES += ["SegmindRemote", "SegmindJobs", "Klein9BSwitch"]
KV = "Klein 9B KV edit two images"
PAID = "Segmind remote edit two images"  # anew each time; the others pick up what is kept
ASIDE = "Klein 9B Reference Cache steps aside, the stock path runs: "


def has(kind):
    return lambda graph: bool(nodes_of(graph, kind))


def joins_images(graph):
    return any("images.image_1" in one["inputs"] for one in nodes_of(graph, "Klein9BReferences"))


def paints(graph):
    return bool(nodes_of(graph, "Klein9BInpaint"))


def sets_attention(graph):
    return any(nodes_of(graph, f"Klein9B{kind}") for kind in ("ReferenceStrength", "Negative", "Cast", "Inpaint"))


def zeroes_the_negative(graph):
    """Text Encode does, for a model that is known not to read it."""
    is_base = any("base" in one["inputs"]["diffusion_model"] for one in nodes_of(graph, "Klein9BLoader"))
    return not is_base and any(not one["inputs"]["negative_prompt"] for one in nodes_of(graph, "Klein9BTextEncode"))


def segmind_is_asked(graph):
    """Behind a switch it is not: that stands on local."""
    return not nodes_of(graph, "Klein9BSwitch") and bool(
        nodes_of(graph, "SegmindRemote") or nodes_of(graph, "SegmindJobs")
    )


PROMPT = [("Klein9BTextEncode", has("Klein9BTextEncode")), ("Klein9BCast", has("Klein9BCast"))]
IMAGES = [("Klein9BReferences", joins_images), ("Klein9BInpaint", paints)]
TILES = [("Klein9BTiles", has("Klein9BTiles"))]
# Which node ends in the sentence, and in which graphs; the first that fits.
LOST = {
    "comfy.sd.load_diffusion_model": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.sd.load_clip": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.memory_management.aimdo_enabled": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.model_management.text_encoder_device": PROMPT,
    "comfy.sd.CLIP": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.text_encoders.flux.KleinTokenizer8B": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.sd.CLIPType.FLUX2": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.sd.VAE": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.sd.load_vae_patcher": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.utils.load_torch_file": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.lora.load_lora": [("Klein9BLora", has("Klein9BLora"))],
    "nodes.LoadImage": [("Klein9BFolder", has("Klein9BFolder"))],
    "comfy.utils.ProgressBar": [("Klein9BFolder", has("Klein9BFolder"))],
    "comfy.model_patcher.ModelPatcher.set_attachments": [("Klein9BLoader", has("Klein9BLoader"))],
    "comfy.model_patcher.ModelPatcher.get_attachment": IMAGES,
    "comfy.model_management.extra_reserved_memory": IMAGES,
    "comfy.model_management.get_total_memory": IMAGES,
    "comfy.model_management.is_directml_enabled": IMAGES,
    "comfy.model_management.raise_non_oom": IMAGES,
    "node_helpers.conditioning_set_values": IMAGES,
    "nodes.ConditioningZeroOut": [
        ("Klein9BTextEncode", zeroes_the_negative),
        ("Klein9BReferences", has("Klein9BCast")),
    ],
    "comfy.model_management.intermediate_device": PROMPT,
    "comfy.controlnet.ControlBase": [("Klein9B", sets_attention)],
    "comfy.conds.CONDNoiseShape": TILES,
    "comfy.model_patcher.ModelPatcher.add_wrapper_with_key": TILES,
    "comfy.patcher_extension.WrappersMP.CALC_COND_BATCH": TILES,
    "comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING": TILES,
    "comfy.patcher_extension.WrappersMP.APPLY_MODEL": [("Klein9B", sets_attention)],
    "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL": [("Klein9B", sets_attention)],
    "comfy.samplers.KSAMPLER": [("Klein9BSampler", has("Klein9BSampler"))],
    "comfy.model_management.throw_exception_if_processing_interrupted": [
        ("Klein9B", has("Klein9BTiles")),
        ("Klein9BSampler", has("Klein9BSampler")),
    ],
    "comfy.model_management.processing_interrupted": [("Segmind", segmind_is_asked)],
    "comfy.model_management.InterruptProcessingException": [("Segmind", segmind_is_asked)],
    "comfy_execution.graph_utils.ExecutionBlocker": [("SegmindJobs", has("SegmindJobs"))],
}
# There is no plan, and every picture comes. No other node needs these.
PLAN_ALONE = {
    "comfy.model_management.MIN_WEIGHT_MEMORY_RATIO",
    "comfy.model_management.NUM_STREAMS",
    "comfy.model_management.current_loaded_models",
    "comfy.model_management.get_free_memory",
    "comfy.model_management.get_torch_device_name",
    "comfy.model_management.vram_state",
}
PLAN = PLAN_ALONE | {
    "comfy.memory_management.aimdo_enabled",
    "comfy.model_management.extra_reserved_memory",
    "comfy.model_management.get_total_memory",
    "comfy.model_management.get_torch_device",
    "comfy.model_management.is_device_cpu",
    "comfy.model_management.text_encoder_device",
    "comfy.model_management.is_directml_enabled",
}
# No file is written, and every picture comes.
QUANTIZE = {
    "comfy.model_management.throw_exception_if_processing_interrupted",
    "comfy.quant_ops.QUANT_ALGOS",
    "comfy.quant_ops.get_layout_class",
    "comfy.utils.ProgressBar",
}
# The cache steps aside: the picture is the stock path's.
STEPS_ASIDE = {
    "comfy.ldm.flux.layers.DoubleStreamBlock",
    "comfy.ldm.flux.layers.QKNorm",
    "comfy.ldm.flux.layers.SiLUActivation",
    "comfy.ldm.flux.layers.SingleStreamBlock",
    "comfy.ldm.flux.math.apply_rope1",
    "comfy.ldm.flux.math.attention",
    "comfy.ldm.flux.model.Flux",
    "comfy.ldm.flux.model.Flux.process_img",
    "comfy.memory_management.RAM_CACHE_HEADROOM",
    "comfy.model_management.MAX_PINNED_MEMORY",
    "comfy.model_management.TOTAL_PINNED_MEMORY",
    "comfy.model_management.get_free_memory",
    "comfy.model_management.in_training",
    "comfy.model_management.is_oom",
    "comfy.model_management.pin_memory",
    "comfy.model_management.unpin_memory",
    "comfy.model_patcher.ModelPatcher",
    "comfy.model_patcher.ModelPatcher.add_wrapper_with_key",
    "comfy.model_patcher.ModelPatcher.set_additional_models",
    "comfy.ops.cast_bias_weight",
    "comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights",
    "comfy.ops.uncast_bias_weight",
    "comfy.patcher_extension.WrappersMP.APPLY_MODEL",
    "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
    "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
    "comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING",
    "comfy.quant_ops.QuantizedTensor",
}
# Of those, what Klein 9B Accelerate needs too: the picture comes as it is without it.
ACCELERATE_IS_OFF = {
    "comfy.ldm.flux.layers.DoubleStreamBlock",
    "comfy.ldm.flux.layers.QKNorm",
    "comfy.ldm.flux.layers.SiLUActivation",
    "comfy.ldm.flux.layers.SingleStreamBlock",
    "comfy.ldm.flux.math.apply_rope1",
    "comfy.ldm.flux.math.attention",
    "comfy.ldm.flux.model.Flux",
    "comfy.model_management.in_training",
    "comfy.model_patcher.ModelPatcher.add_wrapper_with_key",
    "comfy.ops.cast_bias_weight",
    "comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights",
    "comfy.ops.uncast_bias_weight",
    "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
    "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
    "comfy.quant_ops.QuantizedTensor",
}
# Text under nodes, which a line in the log stands in for.
TEXT = {"server.PromptServer", "server.PromptServer.send_sync"}
# Needed only once memory runs out, on a graphics card, for its 8-bit layers, in bf16, with a LoRA on the text encoder,
# where cfg acts in part of the schedule, or to say how far a folder is.
UNUSED = {
    "comfy_execution.utils.get_executing_context",
    "comfy.model_management.WINDOWS",
    "comfy.model_management.cast_to_device",
    "comfy.model_management.is_device_cuda",
    "comfy.model_management.is_device_mps",
    "comfy.model_management.is_nvidia",
    "comfy.model_management.is_wsl",
    "comfy.model_management.soft_empty_cache",
    "comfy.model_management.supports_cast",
    "comfy.ops.run_every_op",
    "comfy.patcher_extension.WrappersMP.PREDICT_NOISE",
    "comfy.samplers.CFGGuider.predict_noise",
    "comfy.weight_adapter.WeightAdapterBase",
}
# Methods of the host's objects, which sources do not tell from anyone's: a few stand for all.
METHODS = {
    "comfy.ldm.flux.model.Flux.process_img",
    "comfy.model_patcher.ModelPatcher.add_wrapper_with_key",
    "comfy.model_patcher.ModelPatcher.get_attachment",
    "comfy.model_patcher.ModelPatcher.set_additional_models",
    "comfy.model_patcher.ModelPatcher.set_attachments",
    "server.PromptServer.send_sync",
}


@dataclass(frozen=True)
class Runs:
    """Every graph once: {name: what it ended with, empty if well}, {name: its pictures}, and the log."""

    ends: dict
    pictures: dict
    log: str


@pytest.fixture(scope="module")
def newer(checkout, models, segmind, tmp_path_factory):
    base = tmp_path_factory.mktemp("newer")
    (base / "models").symlink_to(models)
    standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=96)
    write_key(base, segmind.key)
    remember_jobs(base, seconds=0.05)
    torch.save(torch.randn(1, 16, CONTEXT), base / "prompt.pt")
    wishes = environment(segmind) | {"KLEIN9B_PROBE_REMEMBERS": "1", "OMP_NUM_THREADS": "1"}
    with Host(checkout, base, folder_name=FOLDER, environment=wishes, arguments=("--cache-none",)) as running:
        yield running


def made_tiny(graph, host):
    """One step on a few tokens; a prompt that is read from a file, for the encoder is not this pack's."""
    for text in nodes_of(graph, "CLIPTextEncode"):
        text |= node("ProbeConditioning", path=str(host.base / "prompt.pt"))
    for references in nodes_of(graph, "Klein9BReferences"):
        if references["inputs"]["aspect_ratio"] != "match_input_image":
            references["inputs"].pop("aspect_ratio.megapixels")
            references["inputs"] |= {"aspect_ratio": "custom", "aspect_ratio.width": 64, "aspect_ratio.height": 64}
    for scaled in nodes_of(graph, "ImageScaleToTotalPixels"):  # to two tiles: the VAE takes longer than all else here
        wide = {"upscale_method": "area", "width": 320, "height": 64, "crop": "disabled"}
        scaled |= node("ImageScale", image=scaled["inputs"]["image"], **wide)
    return made_small(graph, steps=1)


@pytest.fixture(scope="module")
def graphs(newer):
    """The shipped workflows, those for one card standing for all, and the nodes that are in none of these."""
    others = re.compile(r" (8|12|24) GB$| make int8 files$| outpaint$")
    shipped = {path.stem: made_tiny(read(twin(path)), newer) for path in WORKFLOWS if not others.search(path.stem)}
    for remote in nodes_of(shipped[PAID], "SegmindRemote"):
        remote["inputs"]["reuse"] = "always_new"
    return shipped | {
        "jobs": {"jobs": node("SegmindJobs", request_id="", limit=5)},
        "encode": encoding(newer),
        "plan": {"plan": plan_of_a_card()},
        "quantize": {
            "quantize": node("Klein9BQuantize", file=f"diffusion_models/{next(iter(standins.CHECKPOINTS))}", name="a/b")
        },
    }


@pytest.fixture(scope="module")
def few(graphs):
    """As few of them as have every node and every way to lose one; the first that has most, then the next."""
    kept, left = {}, set().union(*map(ways, graphs.values()))
    while left:
        name = max(graphs, key=lambda name: len(ways(graphs[name]) & left))
        kept[name] = graphs[name]
        left -= ways(graphs[name])
    return kept | {KV: graphs[KV], PAID: graphs[PAID]}


def ways(graph):
    """The pack's nodes in it, and what LOST asks of a graph."""
    asked = {fits for ends in LOST.values() for _, fits in ends}
    ours = {one["class_type"] for one in graph.values() if one["class_type"] in NODES}
    return ours | {fits.__qualname__ for fits in asked if fits.__name__ != "<lambda>" and fits(graph)}


def encoding(host):
    """A prompt and a negative prompt, encoded; no picture."""
    both = {"positive": ["prompt", 0], "negative": ["prompt", 1]}
    graph = klein([])
    graph["prompt"] = node("Klein9BTextEncode", clip=["load", 1], prompt="fox", negative_prompt="x", precision="fp32")
    graph["references"]["inputs"] |= both
    probe = node("ProbeLatent", latent=["references", 2], path=str(host.base / "latent.pt"))
    return {name: graph[name] for name in ("load", "prompt", "references")} | {"probe": probe}


def plan_of_a_card():
    """Klein 9B Plan, asked about a card in the machine it runs on: what is free there would change its picture."""
    (model, *_), (vae, *_) = standins.CHECKPOINTS, standins.VAES
    files = {"diffusion_model": model, "text_encoder": standins.TEXT_ENCODER, "vae": vae}
    asked = {"width": 64, "height": 64, "references": 0, "reference_megapixels": 1.0, "cfg": 1.0, "batch_size": 1}
    return node("Klein9BPlan", **files, **asked, reference_cache="off", vram_gib=12.0, ram_gib=0.0)


def run_all(host, graphs, names):
    """In a host where these names are others."""
    folder = str(host.base / "custom_nodes" / FOLDER)
    loaded = host.post("/klein9b_probe/rename", {"folder": folder, "names": list(names)})
    assert sorted(loaded) == sorted(NODES), "the pack did not load whole"
    start = len(host.log())
    queued = {name: host.queue(graph, client_id="someone who is told") for name, graph in graphs.items()}
    ends, pictures = {}, {}
    for name, prompt_id in queued.items():
        try:
            entry = host.wait(prompt_id)
        except HostError as error:
            ends[name], pictures[name] = str(error).strip(), []
        else:
            ends[name], pictures[name] = "", [np.asarray(Image.open(path)) for path in host.pictures(entry)]
    return Runs(ends, pictures, host.log()[start:])


@pytest.fixture(scope="module")
def unchanged(newer, graphs):
    return run_all(newer, graphs, [])


@pytest.fixture(scope="module")
def stock_picture(newer, graphs):
    """Of the KV edit without the cache."""
    graph = {key: one | {"inputs": dict(one["inputs"])} for key, one in graphs[KV].items()}
    (key,) = [key for key, one in graph.items() if one["class_type"] == "Klein9BReferenceCache"]
    model = graph.pop(key)["inputs"]["model"]
    for one in graph.values():
        one["inputs"] |= {name: model for name, value in one["inputs"].items() if value == [key, 0]}
    (picture,) = run_all(newer, {KV: graph}, []).pictures[KV]
    return picture


def sentence(host, name):
    version = host.get("/system_stats")["system"]["comfyui_version"]
    return (
        f"Klein 9B needs {name}, which ComfyUI 0.29 to 0.33 have and ComfyUI {version} lacks: update Klein 9B, or use "
        "one of those."
    )


def loser(name, graph):
    """The node that the graph ends at where the name is gone, if any."""
    return next((node for node, loses in LOST.get(name, ()) if loses(graph)), "")


def same(pictures, others):
    return len(pictures) == len(others) and all(map(np.array_equal, pictures, others))


def test_every_inner_name_has_its_cost_written_down():
    assert all_inner_names() == {*LOST, *STEPS_ASIDE, *TEXT, *UNUSED, *PLAN, *QUANTIZE} - METHODS


def test_nothing_is_lost_where_nothing_is_renamed(unchanged, stock_picture):
    assert not any(unchanged.ends.values()) and ASIDE not in unchanged.log
    (cached,) = unchanged.pictures[KV]
    assert not np.array_equal(cached, stock_picture)


@pytest.mark.parametrize("name", sorted({*LOST, *STEPS_ASIDE, *TEXT, *PLAN, *QUANTIZE}))
def test_a_name_that_is_gone_costs_one_feature(newer, few, unchanged, stock_picture, segmind, name):
    told = sentence(newer, name)
    sent = segmind.submits
    runs = run_all(newer, few, [name])
    for graph in few:
        node = loser(name, few[graph])
        if node:
            assert runs.ends[graph].startswith(node) and runs.ends[graph].endswith(f": {told}"), graph
            continue
        assert not runs.ends[graph], graph
        if graph == KV and name in STEPS_ASIDE:
            assert same(runs.pictures[graph], [stock_picture])
        elif not nodes_of(few[graph], "SegmindRemote"):
            assert same(runs.pictures[graph], unchanged.pictures[graph]), graph
    assert runs.log.count(ASIDE) == (name in STEPS_ASIDE) == runs.log.count(f"{ASIDE}{told}")
    assert (f"Klein 9B Plan makes none: {told}" in runs.log) == (name in PLAN)
    assert (f"Klein 9B Quantize writes nothing: {told}" in runs.log) == (name in QUANTIZE)
    assert (f"Klein 9B Accelerate is off: {told}" in runs.log) == (name in ACCELERATE_IS_OFF)
    assert runs.log.count("No text is shown under nodes.") == (name in TEXT) == runs.log.count(f"nodes. {told}")
    assert segmind.submits - sent == (loser(name, few[PAID]) != "Segmind"), (
        "nothing is paid for what could not be cancelled"
    )


def test_names_that_no_graph_needs_may_all_be_gone(newer, graphs, unchanged):
    runs = run_all(newer, graphs, UNUSED)
    assert not any(runs.ends.values()) and ASIDE not in runs.log
    for name, graph in graphs.items():
        assert nodes_of(graph, "SegmindRemote") or same(runs.pictures[name], unchanged.pictures[name]), name


def test_the_paid_lane_runs_when_all_else_is_gone(newer, graphs, segmind):
    paid = {name for name, ends in LOST.items() if any("Segmind" in node for node, _ in ends)}
    gone = {*LOST, *STEPS_ASIDE, *TEXT, *UNUSED, *PLAN, *QUANTIZE} - paid
    sent = segmind.submits
    runs = run_all(newer, graphs, gone)
    for name, graph in graphs.items():
        assert runs.ends[name].startswith("Klein9BLoader: Klein 9B needs ") == has("Klein9BLoader")(graph)
    assert segmind.submits - sent == 1 and not runs.ends["jobs"]
