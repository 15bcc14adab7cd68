"""Klein 9B Loader in the real host: it refuses before it loads, and the model remembers its variant."""

import pytest
from safetensors.torch import save_file

import standins

MODEL = "flux-2-klein-9b.safetensors"
BASE = "flux-2-klein-base-9b-fp8.safetensors"
VAE = "flux2-vae.safetensors"


@pytest.fixture
def loaded_files(monkeypatch):
    """Every path the host is asked to load weights from."""
    import comfy.sd
    import comfy.utils

    paths = []
    read = comfy.utils.load_torch_file
    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda path, *a, **k: paths.append(path) or read(path, *a, **k))
    return paths


def load(model=MODEL, text_encoder=standins.TEXT_ENCODER, vae=VAE, variant="auto"):
    from klein9b.nodes.loader import Klein9BLoader

    return Klein9BLoader.execute(diffusion_model=model, text_encoder=text_encoder, vae=vae, variant=variant).args


def test_it_loads_a_set_that_fits(models):
    model, clip, vae = load()
    assert type(model.model).__name__ == "Flux2"
    assert vae.latent_channels == 128
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a fox"))
    assert conditioning[0][0].shape[1:] == (512, 12288)


@pytest.mark.parametrize(
    ("file", "chosen", "name", "source"),
    [
        (MODEL, "auto", "distilled", "its file name is that of the distilled release"),
        (BASE, "auto", "base", "its file name says base"),
        (BASE, "kv", "kv", "chosen by you, although its file name says base"),
    ],
)
def test_the_model_remembers_its_variant(models, file, chosen, name, source):
    from klein9b.nodes.host.loaded_klein import loaded_klein

    model, *_ = load(model=file, variant=chosen)
    kept = loaded_klein(model.clone())
    assert kept.variant.name == name and kept.variant.source.startswith(source)
    assert f"Klein 9B {name}" in kept.summary and "2 + 2 blocks, width 256" in kept.summary


def test_every_reload_factory_is_set(models):
    """Multi-GPU clones reload from disk through these."""
    model, clip, vae = load()
    assert all(patcher.cached_patcher_init for patcher in (model, clip.patcher, vae.patcher))


def test_a_flux1_vae_is_refused_before_anything_loads(models, loaded_files):
    import torch

    flux1 = {"decoder.conv_in.weight": torch.zeros(512, 16, 3, 3), "encoder.conv_in.weight": torch.zeros(128, 3, 3, 3)}
    save_file(flux1, models / "vae" / "ae.safetensors")
    with pytest.raises(ValueError, match="^ae.safetensors is a 16-channel VAE .* but vae needs the FLUX.2 VAE: get"):
        load(vae="ae.safetensors")
    assert loaded_files == []


def test_a_truncated_model_is_refused_before_anything_loads(models, loaded_files):
    whole = (models / "diffusion_models" / MODEL).read_bytes()
    (models / "diffusion_models" / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="^cut.safetensors is cut short"):
        load(model="cut.safetensors")
    assert loaded_files == []


def test_swapped_slots_are_named(models, loaded_files):
    from klein9b.klein.file_set import check_set

    folder = models / "diffusion_models"
    with pytest.raises(ValueError, match="text_encoder"):
        check_set(models / "text_encoders" / standins.TEXT_ENCODER, folder / MODEL, models / "vae" / VAE)
    assert loaded_files == []


@pytest.mark.parametrize(
    ("installed", "first"),
    [
        (("aura.safetensors", "flux-2-klein-4b.safetensors", BASE, MODEL), MODEL),
        (("flux-2-klein-4b.safetensors", "mine klein 9b.safetensors"), "mine klein 9b.safetensors"),
        (("flux-2-klein-4b.safetensors",), "flux-2-klein-9b-fp8.safetensors"),
        ((), "flux-2-klein-9b-fp8.safetensors"),
    ],
    ids=["official", "by its name", "a 4B alone", "nothing"],
)
def test_a_new_loader_never_chooses_another_model(comfy_host, monkeypatch, installed, first):
    """By names alone: not a byte of a file is read when the definitions are asked for."""
    import folder_paths

    from klein9b.nodes.loader import Klein9BLoader

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: list(installed))
    _, about = Klein9BLoader.INPUT_TYPES()["required"]["diffusion_model"]
    assert about["default"] == first and sorted(about["options"]) == sorted(installed)
    assert not installed or first == about["options"][0] or len(installed) == 1


class TestAFileThatIsNotThere:
    """The frontend shows what the host would not: which file it is, where it comes from, what opens a GGUF file."""

    def refused(self, **files):
        from klein9b.nodes.loader import Klein9BLoader

        return Klein9BLoader.validate_inputs(
            **{"diffusion_model": MODEL, "text_encoder": standins.TEXT_ENCODER, "vae": VAE} | files
        )

    def test_those_that_are_there_pass(self, models):
        assert self.refused() is True
        assert self.refused(vae=None) is True, "it is linked"

    def test_it_is_named_with_its_page(self, models):
        said = self.refused(text_encoder="qwen_3_8b_fp4mixed_2.safetensors")
        assert said.startswith("qwen_3_8b_fp4mixed_2.safetensors is not in models/text_encoders, but text_encoder")
        assert "into models/text_encoders" in said and "diffusion_model " not in said and "GGUF" not in said

    @pytest.mark.parametrize("asked", ["klein/{}", "klein\\{}"])
    def test_it_is_found_under_another_folder(self, models, asked):
        said = self.refused(vae=asked.format(VAE))
        assert said == f"{asked.format(VAE)} is not in models/vae, but {VAE} is: choose it as vae."

    def test_another_models_gguf_file_is_no_help(self, models):
        other = models / "diffusion_models" / "wan2.2-Q4_K_M.gguf"
        other.write_bytes(b"GGUF")
        try:
            assert "GGUF" not in self.refused(diffusion_model="flux-2-klein-9b-int8.safetensors")
        finally:
            other.unlink()

    def test_a_gguf_file_is_named_with_what_opens_it(self, models):
        gguf = models / "diffusion_models" / "flux-2-klein-9b-Q4_K_M.gguf"
        gguf.write_bytes(b"GGUF")
        (models / "diffusion_models" / "other.safetensors").write_bytes(b"PK\x03\x04")
        try:
            missing = self.refused(diffusion_model="flux-2-klein-9b-int8.safetensors")
            with pytest.raises(ValueError, match="There is flux-2-klein-9b-Q4_K_M.gguf") as wrong:
                load(model="other.safetensors")
        finally:
            gguf.unlink()
            (models / "diffusion_models" / "other.safetensors").unlink()
        for said in (missing, str(wrong.value)):
            assert said.endswith(
                "There is flux-2-klein-9b-Q4_K_M.gguf: a GGUF file is opened by Unet Loader (GGUF) of the pack "
                "ComfyUI-GGUF, in place of this loader."
            )


class TestSettingsOfAnotherTraining:
    """Said under the loader, once a run, and taken back when it is no more so."""

    def test_base_settings_on_distilled_weights(self, models, monkeypatch):
        from host.edits import edit
        from klein9b.nodes.host import settings_said

        said = []
        monkeypatch.setattr(settings_said, "show_text", lambda node, text: said.append(text))
        model, *_ = load()
        edit(model, embeds=standin_prompt(model), negative=standin_prompt(model), cfg=1.0)
        assert said == []
        for cfg in (5.0, 1.0, 1.0):
            edit(model.clone(), embeds=standin_prompt(model), negative=standin_prompt(model), cfg=cfg)
        assert len(said) == 2
        assert said[0].startswith("CHECK: these weights are the distilled ones, made for 4 steps at cfg 1; this run")
        assert said[1].startswith("Klein 9B distilled")


def standin_prompt(model):
    import torch

    return torch.randn(1, 512, model.model.diffusion_model.params.context_in_dim, generator=torch.manual_seed(1))
