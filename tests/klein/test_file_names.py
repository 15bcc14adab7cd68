"""Lists of files begin with Klein 9B's, by names alone."""

import pytest

from klein9b.klein.file_names import DIFFUSION_MODEL, LORA, TEXT_ENCODER, VAE, first_choice, is_kleins, klein_first

FILES = [
    "Z-image.safetensors",
    "flux-2-klein-4b-fp8.safetensors",
    "flux-2-klein-9b-fp8.safetensors",
    "flux1-dev.safetensors",
    "my-Klein-9B-tune.safetensors",
    "sub/flux-2-klein-9b.safetensors",
    "flux-2-klein-base-9b.safetensors",
]


def test_official_names_come_first_then_what_says_so_then_the_rest():
    assert klein_first(FILES, DIFFUSION_MODEL) == [FILES[i] for i in (5, 2, 6, 4, 0, 1, 3)]


@pytest.mark.parametrize(
    ("kind", "name", "is_one"),
    [
        (DIFFUSION_MODEL, "FLUX.2-klein-9B-Q4_K_M.gguf", True),
        (DIFFUSION_MODEL, "flux2_klein_9b_int8.safetensors", True),
        (DIFFUSION_MODEL, "flux-2-klein-4b.safetensors", False),
        (DIFFUSION_MODEL, "flux-3-klein-9b.safetensors", False),
        (DIFFUSION_MODEL, "klein-19b.safetensors", False),
        (DIFFUSION_MODEL, "flux2-dev.safetensors", False),
        (TEXT_ENCODER, "qwen_3_8b_int8.safetensors", True),
        (TEXT_ENCODER, "Qwen3-8B-Q4.gguf", True),
        (TEXT_ENCODER, "qwen_3_4b.safetensors", False),
        (TEXT_ENCODER, "qwen3_vl_8b.safetensors", False),
        (VAE, "FLUX.2-vae.safetensors", True),
        (VAE, "full_encoder_small_decoder.safetensors", True),
        (VAE, "ae.safetensors", False),
        (VAE, "flux1-vae.safetensors", False),
        (LORA, "klein-9b-lora.safetensors", True),
        (LORA, "detail.safetensors", False),
    ],
)
def test_what_a_name_says(kind, name, is_one):
    assert is_kleins(name, kind) is is_one


@pytest.mark.parametrize("names", [[], FILES[:2]], ids=["nothing", "a 4B alone"])
def test_without_one_the_choice_is_the_official_file_that_is_missing(names):
    assert first_choice(names, DIFFUSION_MODEL) == "flux-2-klein-9b-fp8.safetensors"


def test_a_list_of_two_kinds_begins_with_either():
    names = ["a/other.safetensors", "text_encoders/qwen_3_8b.safetensors", "diffusion_models/klein-9b.safetensors"]
    assert klein_first(names, DIFFUSION_MODEL, TEXT_ENCODER) == [names[1], names[2], names[0]]
