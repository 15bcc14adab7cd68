"""A frontend from before apps: every graph opens, runs and speaks; what makes it an app is passed over."""

import pytest

from browser.conftest import put_models
from browser.test_said import DISTILLED, KV, PHOTOGRAPHS, SPEAK, stand
from host.checkout import PACK
from host.workflow_files import GRAPHS, read, twin

OLDER = "1.38.14"  # knows no linearData

pytestmark = [pytest.mark.host, pytest.mark.parametrize("comfy", [OLDER], indirect=True, scope="package")]


@pytest.fixture(scope="package")
def page(comfy, browser, models):
    put_models(comfy, models)
    browser.name = comfy.version
    browser("open", url=comfy.host.url, older=True)
    return browser


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_every_graph_opens(page, path):
    page("load", graph=read(path))
    page.screenshot(path.stem)
    nodes = page("nodes")
    assert [one["type"] for one in nodes] == [one["type"] for one in read(path)["nodes"]]
    assert not any(one["unknown"] for one in nodes)
    assert asked(page("apiFormat"), read(twin(path))) == asked(read(twin(path)), read(twin(path)))


def asked(graph, known):
    """What each node is asked, by the inputs that are known of it: older ones also send a preview's own widgets."""
    return {
        key: (one["class_type"], {name: one["inputs"].get(name) for name in known.get(key, one)["inputs"]})
        for key, one in graph.items()
    }


def test_an_edit_runs_and_its_words_stay(page, drawing):
    page("load", graph=read(PACK / "workflows" / f"{KV}.json"))
    for title, value in PHOTOGRAPHS.items():
        page("choose", title=title, widget="image", value=value)
    page("choose", title="Klein 9B Loader", widget="diffusion_model", value=DISTILLED)
    assert page("runToTheEnd") == "execution_success"
    page("lookAt", type="Klein9BReferenceCache")
    said = page("said")
    page.screenshot(f"cache off {drawing}")
    assert stand(said) >= SPEAK
    assert said["Klein9BReferenceCache"]["text"].startswith("OFF: these weights are klein-9b distilled")
    assert said["Klein9BReferenceCache"]["drawn"] and said["Klein9BReferenceCache"]["whole"]
