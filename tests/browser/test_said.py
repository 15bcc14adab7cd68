"""What nodes say stays under them, in both frontends and both drawings, and so do the sentences of errors."""

import pytest

from browser.conftest import PACK_FOLDER
from segmind_host import JOURNAL_FILE, Journal, private_folder

pytestmark = pytest.mark.host

KV = "Klein 9B KV edit two images"
REMOTE = "Segmind remote text to image four seeds"
DISTILLED = "flux-2-klein-9b-fp8.safetensors"
BASE = "flux-2-klein-base-9b-fp8.safetensors"
PHOTOGRAPHS = {"Image 1": "image_1.png", "Image 2": "image_2.png"}
SPEAK = {"Klein9BLoader", "Klein9BPlan", "Klein9BTextEncode", "Klein9BReferenceCache", "Klein9BAccelerate"}
PROMPT = "A red fox in fresh snow, seen from the side, its breath in the cold air"


def opened(page, **loader):
    page("openTemplate", folder=PACK_FOLDER, name=KV)
    for title, value in PHOTOGRAPHS.items():
        page("choose", title=title, widget="image", value=value)
    for widget, value in loader.items():
        page("choose", title="Klein 9B Loader", widget=widget, value=value)


def stand(said):
    """Which nodes say anything that is seen."""
    return {name for name, one in said.items() if one["text"] and one["kind"] in ("said", "off")}


class TestWords:
    def test_they_stay_after_a_run_in_another_tab_and_after_a_reload(self, page, drawing, comfy):
        opened(page, diffusion_model=DISTILLED)
        assert page("runToTheEnd") == "execution_success"
        page("lookAt", type="Klein9BReferenceCache")
        first = page("said")
        page.screenshot(f"cache off {drawing}")
        assert stand(first) >= SPEAK
        cache = first["Klein9BReferenceCache"]
        assert cache["kind"] == "off" and cache["text"].startswith("OFF: these weights are klein-9b distilled")
        assert cache["drawn"] and cache["whole"]
        page("lookAt", type="Klein9BLoader")
        loader = page("said")["Klein9BLoader"]
        page.screenshot(f"loader says {drawing}")
        assert loader["drawn"] and loader["whole"] and loader["text"].startswith("Klein 9B distilled")

        page("newTab")
        assert page("said") == {}
        page("openTabBefore")
        assert page("said")["Klein9BReferenceCache"]["text"] == cache["text"]

        page("open", url=comfy.host.url)
        opened(page, diffusion_model=DISTILLED)
        assert page("said") == {}
        assert page("runToTheEnd") == "execution_success"
        assert stand(page("said")) >= SPEAK, "the host need not run these again"
        page.screenshot(f"said again {drawing}")


class TestErrors:
    @pytest.fixture(autouse=True)
    def nothing_is_left(self, page, comfy):
        """The frontend remembers which nodes of a workflow had errors, also when it is opened anew."""
        yield
        page("open", url=comfy.host.url)

    def test_the_sentence_stands_under_the_node_and_first_in_the_panel(self, page, drawing, models, complaints):
        broken = models / "diffusion_models" / "klein_broken.safetensors"
        broken.write_bytes(b"PK\x03\x04")
        try:
            opened(page, diffusion_model=broken.name)
            assert page("runToTheEnd") == "execution_error"
        finally:
            broken.unlink()
        page("lookAt", type="Klein9BLoader")
        page.screenshot(f"error under the node {drawing}")
        loader = page("said")["Klein9BLoader"]
        assert loader["kind"] == "error" and loader["drawn"] and loader["whole"]
        assert loader["text"].startswith("klein_broken.safetensors is a PyTorch pickle")
        (lines,) = page("listIssues", containing="Exception Message").values()
        page.screenshot(f"error in the panel {drawing}")
        text = " ".join(lines)
        assert f"**Exception Type:** WrongFile - **Exception Message:** WrongFile: {loader['text']}" in text

    def test_a_key_in_the_prompt_is_blamed_on_the_prompt_alone(self, page, drawing, complaints):
        page("openTemplate", folder=PACK_FOLDER, name=REMOTE)
        page("choose", title="Segmind Remote", widget="prompt", value="a fox SG_" + "0123456789abcdef")
        page("runRefused")
        page("lookAt", type="SegmindRemote")
        page.screenshot(f"key {drawing}")
        said = page("said")["SegmindRemote"]
        assert said["kind"] == "error" and said["text"].startswith("The input prompt holds what looks like a Segmind")
        text = " ".join(line for lines in page("listIssues").values() for line in lines)
        page.screenshot(f"key in the panel {drawing}")
        assert "negative_prompt" not in text and "image_urls" not in text

    def test_a_file_that_is_not_there_is_said_and_the_words_come_back(self, page, drawing, complaints):
        opened(page, text_encoder="qwen_3_8b_fp8.safetensors")
        page("runRefused")
        said = page("said")["Klein9BLoader"]
        assert said["kind"] == "error" and "is not in models/text_encoders, but text_encoder needs" in said["text"]


def test_what_must_not_be_missed_stands_on_a_folded_node_too(page, drawing, comfy):
    page("openTemplate", folder=PACK_FOLDER, name="Klein 9B edit one image 16 GB")
    page("choose", title="Image 1", widget="image", value="image_1.png")
    for file, said in ((BASE, "CHECK: these weights are the base model"), (DISTILLED, "")):
        page("choose", title="Klein 9B edit", widget="diffusion_model", value=file)
        assert page("runToTheEnd") == "execution_success"
        page.screenshot(f"folded {file} {drawing}")
        outside = page("said").get("subgraph", {"text": "", "kind": "off"})
        if comfy.version == "newest" or not said:  # the pinned one adds no widget to a subgraph
            assert outside["text"].startswith(said) and outside["kind"] == "off"
            assert outside["text"].endswith(" (Klein 9B Loader)" if said else "")


def test_segmind_jobs_can_be_read_and_copied(page, drawing, comfy):
    name = f"5f0c2a4e-7d7b-4b0e-9c1d-{drawing:.6}00{comfy.version:.4}"
    journal = Journal(private_folder(comfy.host.base) / JOURNAL_FILE)
    row = journal.claim(f"jobs {drawing} {comfy.version}", prompt=PROMPT, seed=1)
    journal.submitting(row.id, "")
    journal.accepted(row.id, name)
    journal.settle(row.id, 0.0402)
    journal.kept(row.id, "0" * 64)
    journal.close()
    page("placeNode", type="SegmindJobs", x=200, y=160)
    assert page("runToTheEnd") == "execution_success"
    page.screenshot(f"jobs {drawing}")
    said = page("said")["SegmindJobs"]
    assert said["drawn"] and name in said["text"] and PROMPT[:40] in said["text"]
    assert page("selectUnder", type="SegmindJobs").startswith("Balance:")


def test_a_node_in_a_subgraph_speaks_and_its_error_stands_outside_too(page, drawing, comfy, complaints):
    page("placeNode", type="SegmindJobs", x=200, y=160)
    page("hold")
    assert page("runToTheEnd") == "execution_success"
    assert page("saidInside").startswith("Balance:")
    page("setInside", widget="request_id", value="no such!")
    assert page("runToTheEnd") == "execution_error"
    page.screenshot(f"error in a subgraph {drawing}")
    assert "is not a request_id" in page("saidInside")
    if comfy.version == "newest":  # the pinned one adds no widget to a subgraph
        outside = page("said")["subgraph"]
        assert outside["kind"] == "error" and outside["drawn"] and outside["text"] == page("saidInside")
    page("setInside", widget="request_id", value="")
    assert page("runToTheEnd") == "execution_success"
    assert page("said") == {}
