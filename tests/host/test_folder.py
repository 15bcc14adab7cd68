"""A folder in, a folder out, in a running ComfyUI: three sizes, a broken photograph and a file that is none."""

import numpy as np
import pytest
import torch
from PIL import Image

import standins
from host.graphs import klein, node
from host.server import HostError
from host.websocket import Watcher

pytestmark = pytest.mark.host

KV = "flux-2-klein-9b-kv-fp8.safetensors"
SHARED = "image_2.png"
FOLDER = "trip/first day"
# By name, those of one size together; the sizes as they are seen.
PHOTOGRAPHS = {"a.jpg": (96, 128), "d.png": (96, 128), "b.png": (112, 80), "e.jpg": (90, 107)}
UPRIGHT = 6  # EXIF: the camera was turned, so the file's columns are the picture's rows
CACHE = "Klein 9B Reference Cache: "
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def folder(host):
    folder = host.base / "input" / FOLDER
    folder.mkdir(parents=True)
    for (name, size), kind in zip(PHOTOGRAPHS.items(), standins.photographs.FILES):
        picture = standins.photograph(kind)
        if name == "e.jpg":
            exif = Image.Exif()
            exif[0x0112] = UPRIGHT
            picture.resize(size[::-1], Image.Resampling.LANCZOS).save(folder / name, exif=exif, quality=95)
        else:
            picture.resize(size, Image.Resampling.LANCZOS).save(folder / name)
    whole = (folder / "a.jpg").read_bytes()
    (folder / "c.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden").touch()
    (folder / "more").mkdir()
    return folder


def cached(graph, model):
    kept = {"storage": "model dtype", "memory_gib": 8.0, "keep": "between runs", "any_model": False}
    graph["cache"] = node("Klein9BReferenceCache", model=model, **kept)
    graph["guider"]["inputs"]["model"] = ["cache", 0]
    return graph


def edits(path, *, out="edited", **settings):
    """All of the folder with a shared second image."""
    graph = klein([SHARED, SHARED], model=KV, **settings)
    graph["folder"] = node("Klein9BFolder", model=["load", 0], folder=FOLDER, first=1, most=20)
    graph["references"]["inputs"]["images.image_1"] = ["folder", 0]
    graph["save"] = node("Klein9BSaveFolder", image=["restore", 0], name=["folder", 1], folder=out)
    graph["probe"] = node("ProbeLatents", latents=["sample", 0], path=str(path))
    return cached(graph, ["folder", 2])


def alone(name, path, **settings):
    graph = klein([f"{FOLDER}/{name}", SHARED], model=KV, **settings)
    graph["save"] = node("Klein9BSaveFolder", image=["restore", 0], name=name, folder="alone")
    graph["probe"] = node("ProbeLatents", latents=["sample", 0], path=str(path))
    return cached(graph, ["load", 0])


def pixels(path):
    return np.asarray(Image.open(path))


def counted(host, what):
    return len(host.get(f"/klein9b_probe/{what}"))


@pytest.fixture(scope="module")
def edited(host, folder, tmp_path_factory):
    """The run, its latents, what it said, how often it encoded, and the cache's lines."""
    path = tmp_path_factory.mktemp("latents") / "all.pt"
    before = {what: counted(host, what) for what in ("vae_encodes", "text_encodes")}
    start = len(host.log())
    with Watcher(host) as watcher:
        prompt = "a boat on a lake of mercury"
        entry = host.run(edits(path, prompt=prompt), client_id=watcher.client_id)
    encodes = {what: counted(host, what) - count for what, count in before.items()}
    log = host.log()[start:]
    return {"entry": entry, "latents": torch.load(path), "said": watcher.said(), "encodes": encodes, "log": log}


def test_every_photograph_comes_out_under_its_name_and_at_its_size(host, edited):
    saved = {path.name: Image.open(path).size for path in (host.output / "edited").iterdir()}
    assert saved == {f"{name[0]}.png": size for name, size in PHOTOGRAPHS.items()}
    assert [path.name for path in host.pictures(edited["entry"])] == [f"{name[0]}.png" for name in PHOTOGRAPHS]


def test_the_files_left_out_are_named(edited):
    for told in (edited["said"], edited["log"]):
        assert "c.jpg (image file is truncated" in told and "notes.txt (not a picture that can be read)" in told
        assert "hidden" not in told.partition("Skipped:")[2].partition("\n")[0]


def test_it_says_how_far_it_is(edited):
    for place, name in enumerate(PHOTOGRAPHS, 1):
        assert f"Editing {place} of 4: {name[0]}" in edited["said"]
    assert "4 pictures saved in" in edited["said"]


def test_the_prompt_and_the_shared_image_are_encoded_once(edited):
    assert edited["encodes"] == {"text_encodes": 1, "vae_encodes": len(PHOTOGRAPHS) + 1}


def test_each_set_of_references_is_computed_once(host, folder, edited, tmp_path):
    """References attend to each other, so that a photograph and the shared image are one set; each is kept."""
    assert edited["log"].count(f"{CACHE}miss: 2 references") == len(PHOTOGRAPHS)
    start = len(host.log())
    host.run(edits(tmp_path / "again.pt", prompt="another", seed=8, out="again"))
    assert host.log()[start:].count(f"{CACHE}hit: 2 references") == len(PHOTOGRAPHS)


def test_each_picture_is_its_photographs_own(host, edited, tmp_path):
    for name, latent in zip(PHOTOGRAPHS, edited["latents"]):
        entry = host.run(alone(name, tmp_path / "one.pt", prompt="a boat on a lake of mercury"))
        (wanted,) = torch.load(tmp_path / "one.pt")
        assert float((latent - wanted).norm() / wanted.norm()) <= TOLERANCE
        (picture,) = host.pictures(entry)
        assert np.array_equal(pixels(host.output / "edited" / f"{name[0]}.png"), pixels(picture)), name


def test_nothing_is_replaced(host, folder, edited, tmp_path):
    before = {path: path.read_bytes() for path in (host.output / "edited").iterdir()}
    host.run(edits(tmp_path / "two.pt", prompt="something else", seed=9))
    after = {path: path.read_bytes() for path in (host.output / "edited").iterdir()}
    assert before.items() <= after.items()
    assert {path.name for path in after.keys() - before.keys()} == {f"{name[0]} (2).png" for name in PHOTOGRAPHS}


def test_one_at_a_time(host, folder, edited, tmp_path):
    graph = edits(tmp_path / "three.pt", out="single", prompt="a boat on a lake of mercury")
    graph["folder"]["inputs"] |= {"first": 4, "most": 1}  # the broken one is the second
    host.run(graph)
    assert [path.name for path in (host.output / "single").iterdir()] == ["b.png"]
    (latent,) = torch.load(tmp_path / "three.pt")
    assert torch.equal(latent, edited["latents"][2])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "No photograph is in {base}/input/empty: it is empty."),
        ("words", "No photograph is in {base}/input/words: words.txt (not a picture that can be read)."),
        ("nowhere", "There is no folder {base}/input/nowhere."),
        ("../output", "The folder '../output' does not lie in {base}/input."),
    ],
)
def test_a_folder_without_photographs(host, tmp_path, name, told):
    (host.base / "input" / "empty").mkdir(exist_ok=True)
    (host.base / "input" / "words").mkdir(exist_ok=True)
    (host.base / "input" / "words" / "words.txt").write_text("words")
    graph = edits(tmp_path / "none.pt")
    graph["folder"]["inputs"]["folder"] = name
    with pytest.raises(HostError) as error:
        host.run(graph)
    assert told.format(base=host.base) in str(error.value)


def test_a_new_file_is_seen(host, folder, edited, tmp_path):
    graph = edits(tmp_path / "new.pt", out="new", prompt="a boat on a lake of mercury")
    standins.photograph("coffee").resize((96, 128)).save(folder / "z.png")
    try:
        host.run(graph)
    finally:
        (folder / "z.png").unlink()
    assert len(torch.load(tmp_path / "new.pt")) == 5 and (host.output / "new" / "z.png").exists()
