"""FLUX.3 [klein] told by its own tensors, its metadata or its name, and nothing else taken for it."""

import pytest
import weight_headers as files
from hypothesis import given
from hypothesis import strategies as st

from klein9b.klein.checkpoint import Encoder, Family, inspect_diffusion_model, inspect_text_encoder, inspect_vae
from klein9b.klein.flux3 import _names_it
from klein9b.klein.safetensors_header import read_header

BY_NAME = "FLUX.3 [klein] by its file name"
BY_METADATA = "FLUX.3 [klein] by its metadata"
UNKNOWN = {"blocks.0.attn.weight": ("BF16", [64, 64])}


@pytest.fixture
def read(tmp_path):
    def write(tensors, name="model.safetensors", metadata=None):
        return inspect_diffusion_model(files.write(tmp_path / name, tensors, metadata=metadata))

    return write


@pytest.mark.parametrize("prefix", ["", "dit.", "model.diffusion_model."])
def test_its_familys_tensors_tell_it_under_any_name(read, prefix):
    model = read(files.flux3(prefix=prefix), "renamed.safetensors")
    assert (model.family, model.name) == (Family.FLUX3, "a FLUX.3 model")


@pytest.mark.parametrize(
    "name",
    [
        "flux-3-image-klein.safetensors",
        "flux_3_image_klein_fp8.safetensors",
        "flux3-klein-nvfp4.safetensors",
        "FLUX.3 [klein].safetensors",
    ],
)
@pytest.mark.parametrize(
    "tensors",
    [files.flux3(), UNKNOWN, files.flux2(2560, 7680, 2, 2), files.flux2(2560, 5120, 2, 2)],
    ids=["its own", "unknown", "of FLUX.2 with Klein 4B's text", "of FLUX.2 with another text"],
)
def test_its_name_tells_it_whatever_its_tensors_are_called(read, name, tensors):
    model = read(tensors, name)
    assert (model.family, model.name) == (Family.FLUX3, BY_NAME)


@pytest.mark.parametrize("key", ["modelspec.title", "modelspec.architecture", "general.name"])
def test_its_metadata_tell_it(read, key):
    model = read(UNKNOWN, "renamed.safetensors", {key: "FLUX 3 Image Klein"})
    assert (model.family, model.name) == (Family.FLUX3, BY_METADATA)


def test_a_klein_9b_of_that_name_stays_one(read):
    """Somebody's FLUX.2 fine-tune, called after what it imitates."""
    assert read(files.flux2(**files.KLEIN_9B), "like-flux-3-klein.safetensors").family is Family.KLEIN_9B


@pytest.mark.parametrize("name", ["flux-2-klein-4b.safetensors", "my-flux-3.safetensors", "flux3-action.safetensors"])
def test_another_name_says_nothing(read, name):
    assert read(files.flux2(**files.KLEIN_4B), name).family is Family.KLEIN_4B


def test_a_lora_named_after_it_is_a_lora(read):
    assert read(files.lora(), "flux-3-klein-style.safetensors").name == "a LoRA"


def test_its_text_encoder_and_its_vae_are_what_they_are(tmp_path):
    encoder = inspect_text_encoder(files.write(tmp_path / "flux-3-klein-text.safetensors", files.qwen3_vl_4b()))
    assert (encoder.kind, encoder.name) == (Encoder.QWEN3_VL_4B, "the text encoder Qwen3-VL-4B")
    assert inspect_vae(files.write(tmp_path / "flux-3-klein-vae.safetensors", files.flux2_vae())).decoder == 128


def test_the_flux2_family_has_none_of_its_marks(tmp_path):
    from klein9b.klein.flux3 import flux3_words

    for size in (files.KLEIN_9B, files.KLEIN_4B, files.FLUX2_DEV):
        assert flux3_words(read_header(files.write(tmp_path / "m.safetensors", files.flux2(**size)))) == ""


@given(st.text(max_size=80))
def test_any_text_is_read(text):
    assert _names_it(text) in (True, False)
    assert not _names_it(f"flux 2 {text.replace('3', '')}")
