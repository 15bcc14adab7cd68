"""Sizes of files: an official one by its name is what a file of its shapes has in its header."""

import pytest
import weight_headers as headers

from klein9b.klein.official_files import (
    ENCODERS,
    GB,
    MODELS,
    VAES,
    encoder_file,
    model_file,
    official,
    twins,
    vae_file,
)
from klein9b.klein.vram import KLEIN_9B


@pytest.fixture
def file(tmp_path):
    def make(name, tensors, **extra):
        return headers.write(tmp_path / name, tensors, **extra)

    return make


def klein(dtype="BF16"):
    return headers.flux2(**headers.KLEIN_9B, dtype=dtype)


def as_fp8(tensors):
    layers = headers.block_matrices(tensors)
    return headers.as_fp8(tensors, layers), headers.in_metadata(layers, format="float8_e4m3fn")


def largest_first(modules):
    return sorted((module.stored for module in modules if module.stored > 1e7), reverse=True)


@pytest.mark.parametrize("quantised", [False, True])
def test_by_its_name_a_model_is_as_large_as_by_its_header(file, quantised):
    tensors, metadata = as_fp8(klein()) if quantised else (klein(), None)
    name = "flux-2-klein-9b-fp8.safetensors" if quantised else "flux-2-klein-9b.safetensors"
    read, known = model_file("x", file("x.safetensors", tensors, metadata=metadata)), model_file(name, None)
    assert known.nbytes == pytest.approx(read.nbytes, rel=0.002)
    assert largest_first(known.modules) == pytest.approx(largest_first(read.modules), rel=0.01)
    assert read.dims == known.dims == KLEIN_9B and not read.note


def test_a_quantised_layer_is_wider_while_it_is_used(file):
    tensors, metadata = as_fp8(klein())
    largest = max(model_file("x", file("x.safetensors", tensors, metadata=metadata)).modules, key=lambda m: m.used)
    assert largest.used == pytest.approx(3 * largest.stored, rel=0.001)


def test_wide_floats_are_halved_as_the_host_loads_them(file):
    read = model_file("x", file("x.safetensors", klein("F32")))
    assert read.nbytes == pytest.approx(MODELS["flux-2-klein-9b"] * GB, rel=0.002)


def test_the_encoder_is_27_layers_and_the_embedding(file):
    read = encoder_file("x", file("x.safetensors", headers.qwen3_8b()))
    assert read.nbytes == pytest.approx(11.66 * GB, rel=0.002)
    assert encoder_file("qwen_3_8b.safetensors", None).nbytes == pytest.approx(read.nbytes, rel=0.005)


@pytest.mark.parametrize(("name", "width"), [("flux2-vae", None), ("full_encoder_small_decoder", 96)])
def test_the_vae_is_held_in_half_of_its_file(file, name, width):
    read, known = vae_file("x", file("x.safetensors", headers.flux2_vae(width))), vae_file(f"{name}.safetensors", None)
    assert known.nbytes == pytest.approx(read.nbytes, rel=0.01)
    assert known.decoder == read.decoder == (width or 128)


def test_every_official_file_has_a_size():
    assert all(model_file(f"{name}.safetensors", None).nbytes > GB for name in MODELS)
    assert all(encoder_file(f"{name}.safetensors", None).nbytes > GB for name in ENCODERS)
    assert all(vae_file(f"{name}.safetensors", None).nbytes > 1e8 for name in VAES)


def test_they_are_the_files_that_the_loader_names():
    from klein9b.klein.file_set import _ENCODER_FILES, _MODEL_FILES, _VAE_FILES

    assert (set(MODELS), set(ENCODERS), set(VAES)) == (set(_MODEL_FILES), set(_ENCODER_FILES), set(_VAE_FILES))


@pytest.mark.parametrize("name", ["flux2-vae", "a/flux2-vae.safetensors", "a\\flux2-vae.safetensors"])
def test_a_folder_does_not_hide_an_official_file(name):
    assert official(name, VAES) == "flux2-vae"
    assert official("my-flux2-vae.safetensors", VAES) is None


def test_a_smaller_twin_is_of_the_same_training():
    assert list(twins("flux-2-klein-9b.safetensors")) == ["flux-2-klein-9b-fp8", "flux-2-klein-9b-nvfp4"]
    assert list(twins("flux-2-klein-base-9b-fp8")) == ["flux-2-klein-base-9b-nvfp4"]
    assert not twins("flux-2-klein-9b-kv-fp8") and not twins("mine.safetensors")


class TestWhatIsOdd:
    """One sentence, and the plan goes on."""

    def test_another_model(self, file):
        read = model_file("x", file("x.safetensors", headers.flux2(**headers.KLEIN_4B)))
        assert read.note == "x.safetensors is FLUX.2 [klein] 4B, not FLUX.2 [klein] 9B."
        assert read.dims.hidden == 3072 and read.nbytes > 5 * GB

    def test_a_text_encoder_where_the_model_should_be(self, file):
        read = model_file("x", file("x.safetensors", headers.qwen3_8b()))
        assert "is the text encoder Qwen3-8B, not" in read.note and not read.modules

    def test_a_header_that_lies(self, tmp_path, file):
        path = file("x.safetensors", klein())
        with open(path, "r+b") as lying:
            lying.truncate(10**9)
        for read in (model_file, encoder_file, vae_file):
            found = read("x", path)
            assert found.nbytes == 0 and "is cut short" in found.note

    @pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04", b"\x00" * 64, b"\xff" * 8])
    def test_a_foreign_file(self, tmp_path, content):
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        for read in (model_file, encoder_file, vae_file):
            assert read("x", path).note.startswith("x.safetensors ")

    def test_a_gguf_file_is_as_large_as_it_is(self, tmp_path):
        path = tmp_path / "klein-Q4_K_M.gguf"
        path.write_bytes(b"GGUF")
        with open(path, "r+b") as grown:
            grown.truncate(6 * 10**9)
        for read in (model_file, encoder_file):
            found = read("klein-Q4_K_M.gguf", path)
            assert "GGUF loader" in found.note and found.nbytes > 4 * GB
        assert model_file("x", path).nbytes == pytest.approx(6 * GB, rel=0.001)

    def test_a_file_that_is_nowhere(self):
        assert "its size is not known" in model_file("mine.safetensors", None).note
        assert "its size is not known" in encoder_file("mine.safetensors", None).note
        assert "its size is not known" in vae_file("mine.safetensors", None).note
