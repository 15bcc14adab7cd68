"""Every shipped workflow, as people open it: well-formed, laid out, equal to its API twin, and run in the host."""

import json
import re
import urllib.parse
import urllib.request

import pytest
from PIL import Image

from browser.plan_notes import card_of, plan_note, plan_of
from fake_segmind import Behaviour
from host.checkout import PACK
from host.websocket import Watcher
from host.workflow_files import WORKFLOWS, all_nodes, made_small, nodes_of, read, twin

SWITCHED = [path for path in WORKFLOWS if "Klein9BSwitch" in path.read_text()]  # on its own card; see test_switch.py
REMOTE = [path for path in WORKFLOWS if "SegmindRemote" in path.read_text() and path not in SWITCHED]
MADE_OF_FILES = [path for path in WORKFLOWS if "Klein9BQuantize" in path.read_text()]
JOBS = PACK / "workflows" / "Segmind jobs.json"
LOCAL = [path for path in WORKFLOWS if path not in [*REMOTE, *MADE_OF_FILES, JOBS]]
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
NODE_KEYS = {"id", "type", "pos", "size", "flags", "order", "mode", "inputs", "outputs", "title", "properties"}
NODE_KEYS |= {"widgets_values", "color", "bgcolor"}
PROPERTIES = {"Node name for S&R", "cnr_id", "ver", "models", "previewExposures"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestFile:
    def test_it_is_ui_format_with_a_thumbnail_and_a_twin(self, path):
        workflow = read(path)
        assert workflow["version"] == 0.4
        assert path.with_suffix(".jpg").is_file() and twin(path).is_file()
        with Image.open(path.with_suffix(".jpg")) as thumbnail:
            assert thumbnail.width == thumbnail.height >= 800

    def test_it_carries_nothing_foreign(self, path):
        for one in all_nodes(read(path)):
            assert set(one) <= NODE_KEYS, one["type"]
            assert set(one["properties"]) <= PROPERTIES, one["type"]

    def test_no_node_names_a_pack_that_nobody_owns(self, path):
        folded = {one["id"] for one in read(path).get("definitions", {}).get("subgraphs", [])}
        for one in all_nodes(read(path)):
            if one["type"].startswith(("Klein9B", "Segmind")) or one["type"] in folded:
                assert "cnr_id" not in one["properties"]
            else:
                assert one["properties"]["cnr_id"] == "comfy-core"
                assert re.fullmatch(r"\d+\.\d+\.\d+", one["properties"]["ver"])

    def test_it_is_an_app_too(self, path):
        """It opens as a graph; the app asks for widgets that are there and shows what the graph ends in."""
        workflow = read(path)
        nodes = {str(one["id"]): one for one in workflow["nodes"]}
        asked, shown = (workflow["extra"]["linearData"][key] for key in ("inputs", "outputs"))
        assert workflow["extra"]["linearMode"] is False and asked and shown
        for key, widget in asked:
            (socket,) = [one for one in nodes[str(key)]["inputs"] if one.get("widget", {}).get("name") == widget]
            assert socket["label"][0].isupper() or socket["label"].startswith("request_id"), socket
        ends = {"SaveImage", "ImageCompare", "PreviewAny", "PreviewImage", "Klein9BSaveFolder"}
        assert {nodes[str(key)]["type"] for key in shown} <= ends

    def test_it_begins_with_a_note(self, path):
        note = min(read(path)["nodes"], key=lambda one: one["pos"])
        assert note["type"] == "MarkdownNote" and note["widgets_values"][0].startswith("# ")

    def test_every_chosen_file_has_a_download(self, path):
        for one in all_nodes(read(path)):
            if one["type"] == "Klein9BLoader":
                models = {model["name"]: model for model in one["properties"]["models"]}
                assert set(one["widgets_values"][:3]) == set(models)
                assert all(model["url"].endswith("/" + name) for name, model in models.items())
                folders = [models[name]["directory"] for name in one["widgets_values"][:3]]
                assert folders == ["diffusion_models", "text_encoders", "vae"]

    def test_every_file_it_starts_from_is_linked_in_its_note(self, path):
        """ComfyUI offers no download for a name with its folder before it."""
        files = [one["widgets_values"][0] for one in read(path)["nodes"] if one["type"] == "Klein9BQuantize"]
        (note,) = [one["widgets_values"][0] for one in read(path)["nodes"] if one["type"] == "MarkdownNote"]
        for file in files:
            assert f"| {file} |" in note and f"/{file.partition('/')[2]})" in note

    def test_its_note_has_the_plan_of_its_card(self, path):
        for plan in nodes_of(read(twin(path)), "Klein9BPlan"):
            (note,) = [one["widgets_values"][0] for one in read(path)["nodes"] if one["type"] == "MarkdownNote"]
            assert plan_note(plan["inputs"], path.stem) in note

    def test_its_plan_is_of_the_files_it_loads(self, path):
        graph = read(twin(path))
        slots = ("diffusion_model", "text_encoder", "vae")
        loaded, planned = (
            [{slot: one["inputs"][slot] for slot in slots} for one in nodes_of(graph, kind)]
            for kind in ("Klein9BLoader", "Klein9BPlan")
        )
        assert loaded == planned

    def test_its_layout_is_clean(self, path):
        """Columns, read from the left; what lies behind what is measured in tests/browser/test_graphs.py."""
        quality = pytest.importorskip("comfy_cli.layout_quality")
        score = quality.score_workflow(read(path))
        left = {one["id"]: one["pos"][0] for one in read(path)["nodes"]}
        assert score.overlap_area == 0
        assert all(left[source] <= left[target] for _, source, _, target, *_ in read(path)["links"])


@pytest.mark.parametrize("path", [path for path in WORKFLOWS if path.stem.endswith(" GB")], ids=lambda path: path.stem)
def test_what_is_for_a_card_runs_on_it(path):
    """Next to everything stays: two references on 8 GB leave a twelfth of the model to stream."""
    (asked,) = nodes_of(read(twin(path)), "Klein9BPlan")
    plan = plan_of(asked["inputs"], card_of(path.stem))
    assert plan.fits and plan.streamed < plan.files.model.nbytes / 12


def test_each_task_is_there_for_each_card():
    names = {path.stem for path in WORKFLOWS}
    for task in ("text to image", "edit one image", "edit two images"):
        assert {f"Klein 9B {task} {gib} GB" for gib in (8, 12, 16, 24)} <= names


@pytest.fixture(scope="session")
def object_info(host):
    return host.get("/object_info")


def asked_of(graph):
    """Each node's class and inputs, without the slider that the canvas alone reads."""
    return {
        key: (one["class_type"], {name: value for name, value in one["inputs"].items() if name != "compare_view"})
        for key, one in graph.items()
    }


@pytest.mark.host
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_api_twin_is_the_same_graph(object_info, path):
    """The frontend wrote both; comfy-cli's own conversion of the UI file must say the same."""
    conversion = pytest.importorskip("comfy_cli.workflow_to_api")
    converted = conversion.convert_ui_to_api(read(path), object_info)
    assert asked_of(converted) == asked_of(read(twin(path)))


@pytest.mark.host
@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.stem)
def test_it_runs(host, path):
    graph = made_small(read(twin(path)))
    (picture,) = host.pictures(host.run(graph))
    with Image.open(picture) as image:
        assert image.width >= 96 and image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1]


@pytest.mark.host
@pytest.mark.parametrize("path", MADE_OF_FILES, ids=lambda path: path.stem)
def test_it_makes_the_files_that_its_note_names(host, models, path):
    (note,) = [one["widgets_values"][0] for one in read(path)["nodes"] if one["type"] == "MarkdownNote"]
    made = [models / name for name in re.findall(r"models/([\w/.-]+int8\.safetensors)", note)]
    assert len(made) == 2 and not any(file.exists() for file in made)
    try:
        entry = host.run(read(twin(path)))
        assert all(file.exists() for file in made)
    finally:
        for file in made:
            file.unlink(missing_ok=True)
    reports = [node["text"][0] for node in entry["outputs"].values() if "text" in node]
    assert sorted(report.partition(":")[0] for report in reports) == sorted(file.name for file in made)


@pytest.mark.host
@pytest.mark.parametrize("path", REMOTE, ids=lambda path: path.stem)
def test_it_runs_on_segmind(host, segmind, path):
    graph = made_small(read(twin(path)))
    (remote,) = nodes_of(graph, "SegmindRemote")
    remote["inputs"]["reuse"] = "always_new"  # two of the workflows are the same request
    count = remote["inputs"]["count"]
    submits, charges = segmind.submits, len(segmind.ledger)
    entry = host.run(graph)
    assert segmind.submits - submits == len(segmind.ledger) - charges == count
    assert len(host.pictures(entry)) == count + len(nodes_of(graph, "Klein9BLoader"))
    (receipt,) = [node["text"][0] for node in entry["outputs"].values() if "text" in node]
    assert receipt.count('"request_id"') == count and segmind.key not in receipt


@pytest.mark.host
def test_the_jobs_are_listed(host, segmind):
    charges = len(segmind.ledger)
    entry = host.run(read(twin(JOBS)))
    assert any("Balance" in text for one in entry["outputs"].values() for text in one.get("text", []))
    assert len(segmind.ledger) == charges


@pytest.mark.host
def test_the_host_offers_the_blueprints(host):
    offered = [
        one["name"] for one in host.get("/global_subgraphs").values() if "other_name" in one["info"]["node_pack"]
    ]
    assert sorted(offered) == [path.stem for path in BLUEPRINTS] == ["Klein 9B edit", "Klein 9B text to image"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_the_node_of_the_workflows(path):
    """One node with nothing connected, and what is in it as in the workflow."""
    (one,) = read(path)["nodes"]
    (folded,) = read(path)["definitions"]["subgraphs"]
    assert one["type"] == folded["id"] and one["title"] == folded["name"] == path.stem and folded["description"]
    assert all(socket["link"] is None for socket in one["inputs"])
    same = [read(workflow)["definitions"]["subgraphs"][0] for workflow in WORKFLOWS if "definitions" in read(workflow)]
    assert [node["type"] for node in folded["nodes"]] in [[node["type"] for node in other["nodes"]] for other in same]


@pytest.mark.host
def test_both_lanes_get_the_same_and_the_remote_one_starts_first(host, segmind):
    graph = made_small(read(twin(PACK / "workflows" / "Klein 9B local and remote side by side.json")))
    (number,), (text,) = nodes_of(graph, "PrimitiveInt"), nodes_of(graph, "PrimitiveStringMultiline")
    number["inputs"]["value"], text["inputs"]["value"] = 4711, "one prompt for both"
    segmind.behave(Behaviour(run_seconds=1.0))
    with Watcher(host) as watcher:
        host.run(graph, client_id=watcher.client_id)
        said = [json.loads(one) for one in watcher.messages if one.startswith(b"{")]
    body, sampled = segmind.jobs[-1].body, nodes_of(graph, "RandomNoise")[0]["inputs"]["noise_seed"]
    assert (body["prompt"], body["seed"], len(body["image_urls"])) == ("one prompt for both", 4711, 2)
    assert graph[sampled[0]] is number
    begun = [one["data"]["node"] for one in said if one["type"] == "executing"]
    started = [graph[key]["class_type"] for key in begun if key]
    assert started.index("SegmindRemote") < started.index("SamplerCustomAdvanced")


@pytest.mark.host
def test_the_host_offers_them_as_templates(host):
    offered = host.get("/workflow_templates")
    (folder,) = [name for name in offered if "other_name" in name]
    assert sorted(offered[folder]) == sorted(path.stem for path in WORKFLOWS)
    address = f"/api/workflow_templates/{folder}/{urllib.parse.quote(WORKFLOWS[0].name)}"
    with urllib.request.urlopen(host.url + address) as answer:
        assert json.load(answer) == read(WORKFLOWS[0])


@pytest.mark.host
def test_every_node_is_in_a_workflow(object_info):
    used = {one["type"] for path in WORKFLOWS for one in all_nodes(read(path))}
    known = {name for name in object_info if name.startswith(("Klein9B", "Segmind"))}
    assert known <= used
