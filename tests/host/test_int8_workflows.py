"""Every shipped workflow for one's own GPU on int8 files that Klein 9B Quantize made, with Klein 9B Accelerate in it.

What it paints must be what the same graph paints without Accelerate. Workflows that differ in their files alone are one
here, as all get the int8 ones.
"""

import copy
import json

import pytest
import torch

from host.graphs import TEXT_ENCODER, VAE, node
from host.test_workflows import LOCAL, MADE_OF_FILES, REMOTE
from host.workflow_files import WORKFLOWS, made_small, nodes_of, read, twin

pytestmark = pytest.mark.host

MODELS = {
    "flux-2-klein-9b": "flux-2-klein-9b.safetensors",
    "flux-2-klein-base-9b": "flux-2-klein-base-9b-fp8.safetensors",
    "flux-2-klein-9b-kv": "flux-2-klein-9b-kv-fp8.safetensors",
}
OFF = "Klein 9B Accelerate"  # begins every line of the log that says what it left
EXACT = {"profile": "exact", "attention": "auto", "cfg_from": 0.0, "cfg_until": 1.0}
# Of the latent, relative. On a processor equal bits were seen.
SAME = 1e-5


def made_name(stem):
    return f"{stem}-accelerated-int8.safetensors"


@pytest.fixture(scope="module")
def int8(host, models):
    """{file of the workflows: its int8 twin}, made by the node in one run."""
    wanted = {file: ("diffusion_models", made_name(stem)) for stem, file in MODELS.items()}
    wanted[TEXT_ENCODER] = ("text_encoders", made_name("qwen_3_8b"))
    host.run({f: node("Klein9BQuantize", file=f"{folder}/{f}", name=name) for f, (folder, name) in wanted.items()})
    made = [models / folder / name for folder, name in wanted.values()]
    assert all(path.exists() for path in made)
    yield {file: name for file, (_, name) in wanted.items()}
    for path in made:
        path.unlink()


def variant_of(file):
    """Which of MODELS a workflow's file is."""
    return max((stem for stem in MODELS if file.startswith(stem)), key=len)


def local_part(graph):
    """Without the hosted lane, which other tests run."""
    graph = passed_by(graph, "Klein9BSwitch", "local")
    (remote,) = nodes_of(graph, "SegmindRemote") or [None]
    if remote is None:
        return graph
    (gone,) = [key for key, one in graph.items() if one is remote]
    behind = [key for key, one in graph.items() if any(value[:1] == [gone] for value in links(one))]
    return {key: one for key, one in graph.items() if key not in (gone, *behind)}


def links(one):
    return [value for value in one["inputs"].values() if isinstance(value, list)]


def without_names(graph):
    """What a graph computes, its files' names and its note's plan left out."""
    kept = {key: one for key, one in copy.deepcopy(graph).items() if one["class_type"] != "Klein9BPlan"}
    for loader in nodes_of(kept, "Klein9BLoader"):
        loader["inputs"] |= {"diffusion_model": variant_of(loader["inputs"]["diffusion_model"])}
        loader["inputs"] |= {"text_encoder": "", "vae": ""}
    return kept


def distinct():
    """One workflow for each graph there is: those for several cards are the same one."""
    found = {}
    for path in [*LOCAL, *(path for path in REMOTE if nodes_of(read(twin(path)), "Klein9BLoader"))]:
        found.setdefault(json.dumps(without_names(read(twin(path))), sort_keys=True), path)
    return list(found.values())


def on_int8(graph, int8, host, name):
    """The graph on int8 files, its latent kept in a file."""
    graph = made_small(local_part(without_plan(graph)))
    for loader in nodes_of(graph, "Klein9BLoader"):
        model = MODELS[variant_of(loader["inputs"]["diffusion_model"])]
        loader["inputs"] |= {"diffusion_model": int8[model], "text_encoder": int8[TEXT_ENCODER], "vae": VAE}
    (sample,) = [key for key, one in graph.items() if one["class_type"] == "SamplerCustomAdvanced"]
    return graph | {"probe": node("ProbeLatent", latent=[sample, 0], path=str(host.base / f"{name}.pt"))}


def without_plan(graph):
    return {key: one for key, one in graph.items() if one["class_type"] != "Klein9BPlan"}


def accelerated(graph):
    """With the node before the guider, where the workflow has none."""
    if nodes_of(graph, "Klein9BAccelerate"):
        return graph
    graph = copy.deepcopy(graph)
    (guider,) = nodes_of(graph, "CFGGuider") + nodes_of(graph, "BasicGuider")
    graph["accelerate"] = node("Klein9BAccelerate", model=guider["inputs"]["model"], **EXACT)
    guider["inputs"]["model"] = ["accelerate", 0]
    return graph


def plain(graph):
    """Without the node."""
    return passed_by(graph, "Klein9BAccelerate", "model")


def passed_by(graph, kind, name):
    """Without the nodes of a kind: what is behind them gets what came in by that name."""
    graph = copy.deepcopy(graph)
    for key in [key for key, one in graph.items() if one["class_type"] == kind]:
        before = graph.pop(key)["inputs"][name]
        for one in graph.values():
            one["inputs"] |= {name: before for name, value in one["inputs"].items() if value == [key, 0]}
    return graph


def latent(host, graph):
    entry = host.run(graph)
    assert len(host.pictures(entry)) == 1
    return torch.load(graph["probe"]["inputs"]["path"])


def relative(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


def test_every_workflow_has_a_part_here():
    """So that none is left out when one is added."""
    no_gpu = [path for path in WORKFLOWS if not nodes_of(read(twin(path)), "Klein9BLoader")]
    mine = {json.dumps(without_names(read(twin(path))), sort_keys=True) for path in distinct()}
    for path in WORKFLOWS:
        if path not in no_gpu + MADE_OF_FILES:
            assert json.dumps(without_names(read(twin(path))), sort_keys=True) in mine


@pytest.mark.parametrize("path", distinct(), ids=lambda path: path.stem)
def test_it_paints_the_same_on_int8_files(host, int8, path):
    graph = on_int8(read(twin(path)), int8, host, path.stem)
    wanted = latent(host, plain(graph))
    start = len(host.log())
    got = latent(host, accelerated(graph))
    log = host.log()[start:]
    assert OFF + ", exact profile:" in log, "it ran"
    assert f"{OFF} leaves" not in log and f"{OFF} is off" not in log
    assert not nodes_of(graph, "Klein9BReferenceCache") or "Klein 9B Reference Cache: " in log
    assert relative(got, wanted) < SAME, relative(got, wanted)


def test_another_cfg_interval_would_be_seen(host, int8):
    (path,) = [path for path in LOCAL if path.stem == "Klein 9B base edit two images"]
    graph = on_int8(read(twin(path)), int8, host, "interval")
    wanted = latent(host, plain(graph))
    (node_,) = nodes_of(graph, "Klein9BAccelerate")
    node_["inputs"]["cfg_until"] = 0.5
    assert relative(latent(host, graph), wanted) > 100 * SAME
