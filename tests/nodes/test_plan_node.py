"""Klein 9B Plan in the real host: files that are there, official ones that are not, this machine and others."""

import pytest
import torch
import weight_headers as headers

OFFICIAL = ("flux-2-klein-9b.safetensors", "qwen_3_8b_fp8mixed.safetensors", "flux2-vae.safetensors")
BROKEN, MINE = "broken.safetensors", "mine-fp8.safetensors"


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.plan import Klein9BPlan

    return Klein9BPlan


@pytest.fixture
def folders(comfy_host, tmp_path, monkeypatch):
    """A models folder with a model, in a folder of its own, that has an official name and other widths."""
    import folder_paths

    for kind in ("diffusion_models", "text_encoders", "vae"):
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    small = headers.KLEIN_9B | {"hidden": 1024}
    (tmp_path / "diffusion_models" / "flux2").mkdir()
    headers.write(tmp_path / "diffusion_models" / "flux2" / OFFICIAL[0], headers.flux2(**small))
    headers.write(tmp_path / "diffusion_models" / MINE, headers.flux2(**headers.KLEIN_9B))
    (tmp_path / "diffusion_models" / BROKEN).write_bytes(b"<html>")
    return tmp_path


def run(node, files=OFFICIAL, **changes):
    inputs = {"width": 1024, "height": 1024, "references": 0, "reference_megapixels": 1.0, "cfg": 1.0, "batch_size": 1}
    inputs |= {"reference_cache": "off", "vram_gib": 12.0, "ram_gib": 32.0}
    names = dict(zip(("diffusion_model", "text_encoder", "vae"), files, strict=True))
    return node.execute(**(names | inputs | changes))


def choices(node, name):
    return node.INPUT_TYPES()["required"][name][1]["options"]


def test_official_files_can_be_asked_about_before_they_are_there(node, folders):
    assert OFFICIAL[1] in choices(node, "text_encoder") and OFFICIAL[2] in choices(node, "vae")
    text, picture, fits = run(node).args
    assert fits is True
    assert text.startswith("It ") and "Diffusion model" in text
    assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.min() >= 0 and picture.max() <= 1
    assert picture.dtype == torch.float32


def test_what_is_installed_is_read_from_its_header(node, folders):
    listed = choices(node, "diffusion_model")
    assert listed[:2] == [f"flux2/{OFFICIAL[0]}", OFFICIAL[0]] and listed[-2:] == [BROKEN, MINE]
    by_folder = run(node, (f"flux2/{OFFICIAL[0]}", *OFFICIAL[1:])).args[0]
    by_name = run(node).args[0]
    assert by_folder == by_name and "Diffusion model: 1.2 GB" in by_name


def test_a_broken_file_is_told_and_the_plan_goes_on(node, folders):
    text = run(node, (BROKEN, *OFFICIAL[1:])).args[0]
    assert "without the diffusion model" in text.splitlines()[0]
    assert f"{BROKEN} is a web page" in text and "Text encoder: 6.8 GB" in text


def test_what_no_card_holds_does_not_fit(node, folders):
    text, _, fits = run(node, width=4096, height=4096, references=8, vram_gib=2.0).args
    assert fits is False and text.startswith("It does not fit, even with every weight streamed")


def test_references_and_cache_count(node, folders):
    alone, two = run(node).args[0], run(node, references=2, reference_cache="int8").args[0]
    assert "Reference cache" not in alone and "Reference cache: " in two


def test_a_gguf_loaders_folder_is_listed(node, folders, monkeypatch):
    import folder_paths

    (folders / "gguf").mkdir()
    (folders / "gguf" / "klein-Q4.gguf").write_bytes(b"GGUF" + bytes(10**6))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "unet_gguf", ([str(folders / "gguf")], {".gguf"}))
    assert "klein-Q4.gguf" in choices(node, "diffusion_model")
    assert "needs a GGUF loader node" in run(node, ("klein-Q4.gguf", *OFFICIAL[1:])).args[0]


def test_without_numbers_it_is_this_machine(node, folders):
    assert "All of it is in RAM" in run(node, vram_gib=0.0, ram_gib=0.0).args[0]
    assert "Card: 12.2 GB" in run(node, ram_gib=0.0).args[0]


def test_free_memory_is_read_anew(node):
    now = node.fingerprint_inputs(vram_gib=0.0, ram_gib=32.0, width=64)
    assert now != node.fingerprint_inputs(vram_gib=0.0, ram_gib=32.0, width=64)
    fixed = {"vram_gib": 12.0, "ram_gib": 32.0}
    assert node.fingerprint_inputs(**fixed) == node.fingerprint_inputs(**fixed)


def test_a_host_without_a_name_costs_the_plan_and_stops_nothing_else(node, folders, monkeypatch):
    import comfy.model_management

    monkeypatch.delattr(comfy.model_management, "is_device_cpu")
    output = run(node, vram_gib=0.0)
    assert output.block_execution.startswith("Klein 9B needs comfy.model_management.is_device_cpu, which ComfyUI")
    assert output.args == ()
    assert run(node, vram_gib=12.0, ram_gib=32.0).args[0].startswith("It "), "a card by its size needs no host"


class TestThisCard:
    @pytest.fixture
    def management(self, comfy_host, monkeypatch):
        import comfy.model_management as management

        monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
        monkeypatch.setattr(management, "get_total_memory", lambda device=None: 12 * 2**30)
        monkeypatch.setattr(management, "get_free_memory", lambda device=None: 3 * 2**30)
        return management

    def test_what_is_loaded_would_leave(self, management, monkeypatch):
        from klein9b.nodes.host.card import this_card

        class Loaded:
            device, model = management.get_torch_device(), object()

            def model_loaded_memory(self):
                return 8 * 2**30

            def model_memory(self):
                return 9 * 2**30

        monkeypatch.setattr(management, "current_loaded_models", [Loaded()])
        assert this_card().free == 11 * 2**30
        assert this_card().total == 12 * 2**30
        assert this_card().ram == 4 * 2**30, "what of it lies in RAM would leave that"

    @pytest.mark.parametrize(("state", "words"), [("NO_VRAM", "0 MB stay"), ("HIGH_VRAM", "18.2 GB stay")])
    def test_what_the_host_was_told_to_keep(self, management, monkeypatch, node, folders, state, words):
        monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
        monkeypatch.setattr(management, "get_free_memory", lambda device=None: 12 * 2**30)
        text = run(node, ("flux-2-klein-base-9b.safetensors", *OFFICIAL[1:]), vram_gib=0.0).args[0]
        assert words in text
        assert text.startswith("It does not fit" if state == "HIGH_VRAM" else "It runs, and 18.2 GB come")

    def test_an_unknown_memory_is_asked_for(self, management, monkeypatch, node, folders):
        monkeypatch.setattr(management, "is_directml_enabled", lambda: True)
        assert "does not know how much memory" in run(node, vram_gib=0.0).block_execution
        assert run(node).args[0].startswith("It ")
