"""Klein 9B Plan in the real host: official files before they are there, own ones from their headers."""

import math
import os

import pytest
import weight_headers as files
from PIL import Image

FP8, NVFP4 = "flux-2-klein-9b-fp8.safetensors", "flux-2-klein-9b-nvfp4.safetensors"
ENCODER, VAE = "qwen_3_8b_fp4mixed.safetensors", "flux2-vae.safetensors"
OWN = "my-klein.safetensors"
KINDS = ("diffusion_models", "text_encoders", "vae")


@pytest.fixture(autouse=True)
def models(comfy_host, tmp_path, monkeypatch):
    """An empty models folder that the host's folder lists read, and a folder for previews."""
    import folder_paths

    for kind in KINDS:
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))
        monkeypatch.delitem(folder_paths.filename_list_cache, kind, raising=False)
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    yield tmp_path
    for kind in KINDS:
        folder_paths.filename_list_cache.pop(kind, None)


@pytest.fixture
def own(models):
    def write(tensors=None, kind="diffusion_models", name=OWN, **more):
        return files.write(models / kind / name, tensors or files.flux2(**files.KLEIN_9B), **more)

    return write


@pytest.fixture
def shown(monkeypatch):
    from klein9b.nodes import plan

    texts = []
    monkeypatch.setattr(plan, "show_text", lambda node, text: texts.append(text))
    return texts


def run(**changes):
    from klein9b.nodes.plan import Klein9BPlan

    asked = {
        "diffusion_model": FP8, "text_encoder": ENCODER, "vae": VAE, "width": 1024, "height": 1024, "references": 0,
        "reference_megapixels": 1.0, "cfg": 1.0, "batch_size": 1, "reference_cache": "off", "vram_gib": 12.0,
        "ram_gib": 32.0,
    }  # fmt: skip
    return Klein9BPlan.execute(**asked | changes)


def options(name):
    from klein9b.nodes.plan import Klein9BPlan

    return Klein9BPlan.GET_NODE_INFO_V1()["input"]["required"][name][1]["options"]


def test_object_info_lists_it_with_the_official_files():
    assert options("diffusion_model")[0] == "flux-2-klein-9b.safetensors" and NVFP4 in options("diffusion_model")
    assert ENCODER in options("text_encoder") and VAE in options("vae")
    assert options("reference_cache") == ["off", "model dtype", "int8", "int4"]


def test_what_is_there_comes_first_and_once(own):
    own()
    own(name=NVFP4)
    (folder := own().parent / "sub").mkdir()
    files.write(folder / FP8, files.flux2(**files.KLEIN_9B))
    listed = options("diffusion_model")
    assert {*listed[:3]} == {OWN, NVFP4, f"sub/{FP8}"} and listed[3] == "flux-2-klein-9b.safetensors"
    assert listed.count(NVFP4) == 1 and FP8 not in listed


def test_official_files_are_planned_before_they_are_there(shown):
    text, picture = run(references=2).args
    assert text.startswith("Fits: everything stays") and "To download: 16.6 GB" in text and shown == [text]
    assert picture.shape == (1, 438, 720, 3)


def test_the_picture_is_shown_on_the_node(models):
    (saved,) = run().ui.as_dict()["images"]
    with Image.open(models / "temp" / saved["subfolder"] / saved["filename"]) as image:
        assert image.size == (720, 378)


def test_an_own_file_is_read_from_its_header(own):
    own()
    text, _ = run(diffusion_model=OWN).args
    assert text.startswith("Runs, streaming 7.2 GiB a step") and "To download: 7.1 GB" in text
    assert "my-klein" not in text, "it is there, and no official file is offered in its place"


def test_every_input_counts():
    def sampling(**changes):
        text, _ = run(**changes).args
        return next(line for line in text.splitlines() if line.startswith("sampling"))

    base = {"references": 2, "vram_gib": 96.0, "diffusion_model": "flux-2-klein-9b-kv-fp8.safetensors"}
    changes = [
        {}, {"width": 1536}, {"height": 4096}, {"references": 3}, {"reference_megapixels": 0.5}, {"cfg": 5.0},
        {"batch_size": 4}, {"reference_cache": "model dtype"}, {"reference_cache": "int8"},
        {"reference_cache": "int4"}, {"diffusion_model": NVFP4}, {"vram_gib": 8.0},
    ]  # fmt: skip
    assert len({sampling(**base | change) for change in changes}) == len(changes)


def test_another_models_file_is_named_in_one_sentence(own):
    own(files.flux1(), name="flux1.safetensors")
    with pytest.raises(
        ValueError, match=r"^flux1.safetensors is FLUX.1.*, but diffusion_model needs FLUX.2 .*: get .*$"
    ):
        run(diffusion_model="flux1.safetensors")


def test_a_broken_file_is_named_in_one_sentence(own):
    path = own(files.flux2_vae(), kind="vae", name="cut.safetensors")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"^cut.safetensors .*, but vae needs the FLUX.2 VAE: get .*$"):
        run(vae="cut.safetensors")


def test_a_file_that_has_gone_is_named_in_one_sentence():
    with pytest.raises(ValueError, match=r"^gone.safetensors is not in its models folder, .*\.$"):
        run(text_encoder="gone.safetensors")


def test_zero_is_this_machine(monkeypatch):
    from klein9b.klein.plan import GIB, Card
    from klein9b.nodes import plan

    monkeypatch.setattr(plan, "this_card", lambda: Card(10 * GIB, 9 * GIB, 20 * GIB))
    assert "in 10.0 GiB of VRAM, 9.0 GiB of it usable, and 20.0 GiB of RAM" in run(vram_gib=0.0, ram_gib=0.0).args[0]
    assert "in 10.0 GiB of VRAM, 9.0 GiB of it usable, and 64.0 GiB of RAM" in run(vram_gib=0.0, ram_gib=64.0).args[0]
    assert "in 8.0 GiB of VRAM, 6.9 GiB of it usable, and 20.0 GiB of RAM" in run(vram_gib=8.0, ram_gib=0.0).args[0]


def test_without_a_card_this_machines_ram_is_meant():
    """The host of these tests runs on the processor."""
    text, _ = run(vram_gib=0.0, ram_gib=0.0).args
    assert "GiB of RAM, " in text and "VRAM" not in text


class TestThisCard:
    """With a processor standing in for a card."""

    @pytest.fixture
    def management(self, monkeypatch):
        import comfy.model_management as management

        monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
        monkeypatch.setattr(management, "get_total_memory", lambda device, *_: 1000)
        monkeypatch.setattr(management, "get_free_memory", lambda device, *_: 300)
        monkeypatch.setattr(management, "extra_reserved_memory", lambda: 100)
        monkeypatch.setattr(management, "current_loaded_models", [])
        return management

    def test_what_is_loaded_can_be_freed(self, management):
        from klein9b.nodes.host.card import this_card

        assert this_card().usable == 200

        class Loaded:
            device = management.get_torch_device()

            def model_loaded_memory(self):
                return 400

        management.current_loaded_models.append(Loaded())
        card = this_card()
        assert (card.total, card.usable, card.ram, card.memory) == (1000, 600, 1000, "VRAM")

    def test_it_is_never_below_zero(self, management, monkeypatch):
        from klein9b.nodes.host.card import this_card

        monkeypatch.setattr(management, "extra_reserved_memory", lambda: 500)
        assert this_card().usable == 0

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_dynamic_vram_is_asked(self, management, monkeypatch, dynamic):
        import comfy.memory_management

        from klein9b.nodes.host.card import this_card

        monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", dynamic)
        assert this_card().on_demand is dynamic


def test_it_is_planned_anew_where_this_machine_is_meant():
    from klein9b.nodes.plan import Klein9BPlan

    def of(**changes):
        return Klein9BPlan.fingerprint_inputs(**{"vram_gib": 12.0, "ram_gib": 32.0, "references": 2} | changes)

    assert of() == of() == (12.0, 32.0)
    assert math.isnan(of(vram_gib=0.0)) and math.isnan(of(ram_gib=0.0))
