"""The real frontend in a real browser: the host's pinned version, then the newest on the package index; a test may ask
for another by its version."""

import importlib.metadata
import json
import shutil
from types import SimpleNamespace

import pytest

import standins
from browser.frontend import Frontend
from browser.settings import SETTINGS
from browser.toolchain import Unavailable, find_toolchain, frontend_files
from host.conftest import PHOTOGRAPHS, models, segmind  # noqa: F401
from host.server import Host
from segmind_host import environment, remember_jobs, write_key

PACK_FOLDER = "klein9b"


@pytest.fixture(scope="package")  # a browser that stays open draws its page over and over
def browser():
    try:
        frontend = Frontend(find_toolchain())
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield frontend
    frontend.close()


def _front_end_arguments(version):
    if version == "pinned":
        return ()
    try:
        static = frontend_files("" if version == "newest" else version)
    except Unavailable as reason:
        pytest.skip(str(reason))
    if f"-{importlib.metadata.version('comfyui-frontend-package')}-" in str(static):
        pytest.skip("the newest frontend is the pinned one")
    return ("--front-end-root", str(static))


@pytest.fixture(scope="package", params=["pinned", "newest"])
def comfy(request, checkout, segmind, tmp_path_factory):  # noqa: F811
    """A host whose models folder is empty until `page` fills it."""
    arguments = _front_end_arguments(request.param)
    base = tmp_path_factory.mktemp(f"comfy_{request.param}")
    standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=128)
    shutil.copy2(checkout / "input" / "example.png", base / "input")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    for folder in ("diffusion_models", "text_encoders", "vae", "loras"):
        (base / "no_models" / folder).mkdir(parents=True)
    (base / "models").symlink_to("no_models")
    write_key(base, segmind.key)
    remember_jobs(base, 0.2)
    hosts = environment(segmind)
    with Host(checkout, base, folder_name=PACK_FOLDER, environment=hosts, arguments=arguments) as running:
        yield SimpleNamespace(host=running, version=request.param)


def put_models(comfy, folder):
    """What a person does who downloads the files, or loses them, while ComfyUI runs."""
    link = comfy.host.base / "models"
    link.unlink()
    link.symlink_to(folder)


@pytest.fixture(scope="package")
def page(comfy, browser, models):  # noqa: F811
    """The page of a host that has every model."""
    put_models(comfy, models)
    browser.name = comfy.version
    browser("open", url=comfy.host.url)
    return browser


@pytest.fixture(scope="class")
def empty_page(page, comfy, models):  # noqa: F811
    """The same page where no model file has been downloaded yet."""
    put_models(comfy, "no_models")
    page("open", url=comfy.host.url)
    yield page
    put_models(comfy, models)
    page("open", url=comfy.host.url)


@pytest.fixture(autouse=True)
def quiet(request):
    """Each test starts from an empty graph, and must leave no error in the console and none on the screen."""
    if "page" not in request.fixturenames:
        yield
        return
    page = request.getfixturevalue("page")
    page("reset")
    yield
    if "complaints" not in request.fixturenames:
        assert page("heard") == {"complaints": [], "toasts": []}


@pytest.fixture
def complaints(page):
    """For a test that expects the page to complain."""
    return lambda: page("heard")


@pytest.fixture(params=["classic", "nodes2"])
def drawing(request, page):
    """The classic canvas, then Nodes 2.0."""
    page("set", name="Comfy.VueNodes.Enabled", value=request.param == "nodes2")
    yield request.param
    page("set", name="Comfy.VueNodes.Enabled", value=False)


@pytest.fixture(scope="package")
def pack_nodes(comfy):
    """What the host says of each of the pack's nodes, by node id."""
    everything = comfy.host.get("/object_info")
    return {name: one for name, one in everything.items() if one["python_module"] == f"custom_nodes.{PACK_FOLDER}"}
