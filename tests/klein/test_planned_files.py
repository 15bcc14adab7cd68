"""Files as the plan sees them: from their headers, or from what is known of the official ones."""

import pytest
import weight_headers as files
from planned import NOWHERE, official

from klein9b.klein.checkpoint import inspect_diffusion_model, inspect_text_encoder, inspect_vae
from klein9b.klein.file_set import WrongFile
from klein9b.klein.official_files import DIFFUSION_MODELS, TEXT_ENCODERS, VAES
from klein9b.klein.planned_files import planned, planned_set, smaller_files
from klein9b.klein.vram import KLEIN_9B, Dims

KLEIN = files.flux2(**files.KLEIN_9B)
LAYERS = files.block_matrices(KLEIN)
QWEN = files.qwen3_8b()
NAMES = {"diffusion_model": "own.safetensors", "text_encoder": "qwen_3_8b.safetensors", "vae": "flux2-vae.safetensors"}


def marked(quantise, name):
    return quantise(KLEIN, LAYERS), files.in_metadata(LAYERS, format=name)


MODELS = {
    "flux-2-klein-9b.safetensors": (KLEIN, None),
    "flux-2-klein-9b-fp8.safetensors": marked(files.as_fp8, "float8_e4m3fn"),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_official_model_is_planned_alike_before_and_after_the_download(tmp_path, name):
    tensors, metadata = MODELS[name]
    path = files.write(tmp_path / name, tensors, metadata=metadata)
    before, after = planned(name, DIFFUSION_MODELS[name]), planned(name, inspect_diffusion_model(path))
    assert before.kept == pytest.approx(after.kept, rel=2e-3)
    assert before.format == after.format and before.largest_step == after.largest_step
    assert before.to_download == DIFFUSION_MODELS[name].size and after.to_download == 0


def test_a_text_encoder_counts_as_far_as_it_is_read(tmp_path):
    name = "qwen_3_8b.safetensors"
    path = files.write(tmp_path / name, QWEN)
    before, after = planned(name, TEXT_ENCODERS[name]), planned(name, inspect_text_encoder(path))
    layer = 2 * sum(a * b for a, b in [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(12288, 4096)] * 3)
    by_hand = 2 * 151936 * 4096 + 27 * layer
    assert after.kept == pytest.approx(by_hand, rel=1e-4)
    assert before.kept == pytest.approx(by_hand, rel=0.01)


@pytest.mark.parametrize(("name", "width"), [("flux2-vae", 128), ("full_encoder_small_decoder", 96)])
def test_a_vae_is_held_in_half_of_its_float32(tmp_path, name, width):
    name = f"{name}.safetensors"
    path = files.write(tmp_path / name, files.flux2_vae(width))
    before, after = planned(name, VAES[name]), planned(name, inspect_vae(path))
    assert before.kept == pytest.approx(after.kept, rel=1e-3) == pytest.approx(VAES[name].size / 2, rel=1e-3)
    assert VAES[name].decoder == inspect_vae(path).decoder == width


def test_a_set_may_be_partly_there(tmp_path):
    path = files.write(tmp_path / "own.safetensors", files.flux2(256, 12288, 2, 3))
    models = planned_set(NOWHERE | {"diffusion_model": path}, NAMES)
    assert models.dims == Dims(256, 2, 3, 12288) and models.decoder == 128
    assert models.diffusion_model.to_download == 0
    assert models.text_encoder.to_download > models.vae.to_download > 0
    assert official("flux-2-klein-9b").dims == KLEIN_9B


def test_the_small_decoder_needs_less():
    assert official("flux-2-klein-9b", vae="full_encoder_small_decoder").decoder == 96


def test_a_wrong_file_is_named(tmp_path):
    path = files.write(tmp_path / "own.safetensors", files.flux1())
    with pytest.raises(WrongFile, match="^own.safetensors is FLUX.1.* but diffusion_model needs FLUX.2"):
        planned_set(NOWHERE | {"diffusion_model": path}, NAMES)


def test_a_name_that_is_neither_there_nor_official_is_named():
    with pytest.raises(
        WrongFile, match="^own.safetensors is not in its models folder, .*: flux-2-klein-9b.safetensors, "
    ):
        planned_set(NOWHERE, NAMES)


def stems(name):
    return [file.name.removesuffix(".safetensors") for file in smaller_files(name)]


def test_smaller_files_are_of_the_same_model_largest_first():
    assert stems("flux-2-klein-9b.safetensors") == ["flux-2-klein-9b-fp8", "flux-2-klein-9b-nvfp4"]
    assert stems("flux-2-klein-base-9b-fp8.safetensors") == ["flux-2-klein-base-9b-nvfp4"]
    assert stems("flux-2-klein-9b-kv.safetensors") == ["flux-2-klein-9b-kv-fp8"]
    assert stems("folder/flux-2-klein-9b-fp8.safetensors") == ["flux-2-klein-9b-nvfp4"]
    assert stems("my-finetune.safetensors") == stems("flux-2-klein-9b-nvfp4.safetensors") == []


def test_every_official_file_has_a_sensible_size():
    for name, file in DIFFUSION_MODELS.items():
        bits = 8 * file.size / 9_078_581_248
        assert {"bf16": 16, "fp8_e4m3": 8.5, "nvfp4": 5}[file.format] == pytest.approx(bits, rel=0.04), name
    assert all(file.embedding < file.size for file in TEXT_ENCODERS.values())
