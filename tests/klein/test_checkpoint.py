import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import weight_headers as files
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.checkpoint import (
    AddOn,
    Encoder,
    Family,
    Layout,
    VaeKind,
    inspect_diffusion_model,
    inspect_text_encoder,
    inspect_vae,
    shard,
)

# A header of these models is 20 to 50 KiB; one wrong shape is off by a megabyte or more.
HEADER_ROOM = 64 * 1024
INSPECTORS = (inspect_diffusion_model, inspect_text_encoder, inspect_vae)
KLEIN = files.flux2(**files.KLEIN_9B)
LAYERS = files.block_matrices(KLEIN)


@pytest.fixture
def write(tmp_path):
    return lambda tensors, name="it.safetensors", **more: files.write(tmp_path / name, tensors, **more)


@pytest.mark.parametrize(
    ("tensors", "published"),
    [
        (files.qwen3_8b(), 16_381_517_176),  # Comfy-Org qwen_3_8b
        (files.flux2_vae(), 336_211_292),  # Comfy-Org flux2-vae
        (files.flux2_vae(96), 249_519_092),  # black-forest-labs full_encoder_small_decoder
        # flux-2-klein-base-9b-fp8 keeps 8 of the 4096 x 4096 projections in bf16
        (files.as_fp8(KLEIN, [x for x in LAYERS if not x.endswith("img_attn.proj")]), 9_567_278_472),
    ],
)
def test_the_shapes_add_up_to_the_published_files(write, tensors, published):
    assert abs(published - write(tensors).stat().st_size) < HEADER_ROOM


def dims(model):
    sizes = (model.hidden, model.heads, model.double_blocks, model.single_blocks)
    return (*sizes, model.context, model.in_channels)


@pytest.mark.parametrize(
    ("tensors", "family", "read"),
    [
        (KLEIN, Family.KLEIN_9B, (4096, 32, 8, 24, 12288, 128)),
        (files.flux2(256, 12288, 2, 2), Family.KLEIN_9B, (256, 2, 2, 2, 12288, 128)),
        (files.flux2(**files.KLEIN_4B), Family.KLEIN_4B, (3072, 24, 5, 20, 7680, 128)),
        (files.flux2(**files.FLUX2_DEV, guidance=True), Family.FLUX2_DEV, (6144, 48, 8, 48, 15360, 128)),
        (files.flux2(4096, 7777, 2, 2), Family.FLUX2_OTHER, (4096, 32, 2, 2, 7777, 128)),
        (files.flux1(), Family.FLUX1, (3072, 24, 19, 38, 4096, 64)),
        (files.klein_diffusers(), Family.KLEIN_9B, (4096, 32, 1, 1, 12288, 128)),
        (files.qwen3_8b(), Family.OTHER, (0, 0, 0, 0, 0, 0)),
    ],
)
def test_diffusion_models(write, tensors, family, read):
    model = inspect_diffusion_model(write(tensors))
    assert (model.family, dims(model)) == (family, read)
    assert not model.bundled and bool(model.missing) == (family is Family.FLUX1)
    assert model.guidance == (family in (Family.FLUX2_DEV, Family.FLUX1))


def test_layouts(write):
    prefixed = files.flux2(256, 12288, 2, 2, prefix="model.diffusion_model.")
    assert inspect_diffusion_model(write(KLEIN)).layout is Layout.BFL
    assert inspect_diffusion_model(write(files.klein_diffusers())).layout is Layout.DIFFUSERS
    model = inspect_diffusion_model(write(prefixed))
    assert (model.layout, model.family, dims(model)) == (
        Layout.PREFIXED,
        Family.KLEIN_9B,
        (256, 2, 2, 2, 12288, 128),
    )


def test_sixty_four_channels_are_not_flux2(write):
    tensors = KLEIN | {"img_in.weight": ("BF16", [4096, 64])}
    assert inspect_diffusion_model(write(tensors)).family is Family.OTHER


def test_blocks_count_up_to_the_first_gap(write):
    tensors = {name: value for name, value in KLEIN.items() if not name.startswith("single_blocks.20.")}
    assert inspect_diffusion_model(write(tensors)).single_blocks == 20


def test_what_is_missing_is_named(write):
    tensors = {name: value for name, value in KLEIN.items() if name != "final_layer.linear.weight"}
    assert inspect_diffusion_model(write(tensors)).missing == ("final_layer.linear.weight",)


def test_quantised_models_keep_their_dims_and_name_their_format(write):
    fp8, nvfp4 = files.as_fp8(KLEIN, LAYERS), files.as_nvfp4(KLEIN, LAYERS)
    int8 = files.as_int8(KLEIN, LAYERS)
    paths = [
        write(fp8, "fp8.safetensors", metadata=files.in_metadata(LAYERS, format="float8_e4m3fn")),
        write(nvfp4, "nvfp4.safetensors", metadata=files.in_metadata(LAYERS, format="nvfp4")),
        write(int8, "int8.safetensors", blobs=files.in_tensors(LAYERS, format="int8_tensorwise", convrot=True)),
    ]
    models = [inspect_diffusion_model(path) for path in paths]
    assert {dims(model) for model in models} == {(4096, 32, 8, 24, 12288, 128)}
    assert [model.weights.format for model in models] == ["fp8_e4m3", "nvfp4", "int8_convrot"]


def test_the_variant_comes_with_the_model(write):
    assert inspect_diffusion_model(write(KLEIN, "flux-2-klein-base-9b.safetensors")).variant.name == "base"


@pytest.mark.parametrize(
    ("tensors", "kind", "name", "read"),
    [
        (files.qwen3_8b(), Encoder.QWEN3_8B, "the text encoder Qwen3-8B", (4096, 36, 12288)),
        (files.qwen3_8b(layers=3, vocab=64), Encoder.QWEN3_8B, "the text encoder Qwen3-8B", (4096, 3, 12288)),
        (files.qwen3_4b(), Encoder.QWEN3_4B, "the text encoder Qwen3-4B", (2560, 36, 7680)),
        (files.qwen3_vl_8b(), Encoder.QWEN3_VL_8B, "the text encoder Qwen3-VL-8B", (4096, 36, 12288)),
        (files.qwen3(2048, 6144, layers=28), Encoder.OTHER, "the text encoder Qwen3-1.7B", (2048, 28, 0)),
        (files.qwen25_vl_7b(), Encoder.OTHER, "the text encoder Qwen2.5-VL-7B", (3584, 28, 0)),
        (files.mistral_small_3(), Encoder.OTHER, "the text encoder Mistral-Small-3", (5120, 40, 15360)),
        (files.t5_xxl(), Encoder.OTHER, "the text encoder T5-XXL", (0, 0, 0)),
        (files.clip_l(), Encoder.OTHER, "the text encoder CLIP-L", (0, 0, 0)),
        (KLEIN, Encoder.OTHER, "FLUX.2 [klein] 9B", (0, 0, 0)),
    ],
)
def test_text_encoders(write, tensors, kind, name, read):
    encoder = inspect_text_encoder(write(tensors))
    assert (encoder.kind, encoder.name) == (kind, name)
    assert (encoder.hidden, encoder.layers, encoder.context) == read


def test_mixed_text_encoders(write):
    qwen = files.qwen3_8b()
    layers = files.block_matrices(qwen)
    fp8 = files.as_fp8(qwen, layers, input_scale=False)
    marks = files.in_tensors(layers, format="float8_e4m3fn")
    encoder = inspect_text_encoder(write(fp8, blobs=marks))
    assert (encoder.kind, str(encoder.weights)) == (Encoder.QWEN3_8B, "fp8_e4m3 with scales")
    half = layers[::2]
    fp4 = files.as_nvfp4(files.as_fp8(qwen, [x for x in layers if x not in half], input_scale=False), half)
    encoder = inspect_text_encoder(write(fp4, blobs=marks | files.in_tensors(half, format="nvfp4")))
    assert (encoder.kind, encoder.weights.format, encoder.weights.unmarked) == (Encoder.QWEN3_8B, "mixed", 0)
    assert set(encoder.weights.parts) == {"fp8_e4m3", "nvfp4", "bf16"}


@pytest.mark.parametrize("stack", ["model.", "model.language_model."])
def test_what_is_read_of_a_text_encoder_ends_with_its_27th_layer(write, stack):
    """Neither the nine layers behind it, nor the final norm, nor the head, each found by its name."""
    whole = files.qwen3(256, 512, layers=36, vocab=64, stack=stack, lm_head=True)
    unread = ("lm_head.", f"{stack}norm.", *(f"{stack}layers.{i}." for i in range(27, 36)))
    kept = {name: tensor for name, tensor in whole.items() if not name.startswith(unread)}
    assert len(whole) - len(kept) == 9 * 11 + 2
    expected = sum(2 * prod(shape) for _, shape in kept.values())
    assert inspect_text_encoder(write(whole)).read_bytes == expected
    assert inspect_text_encoder(write(kept)).read_bytes == expected


def test_scales_and_marks_of_a_layer_are_read_or_left_with_it(write):
    whole = files.qwen3(256, 512, layers=28, vocab=64)
    layers = files.block_matrices(whole)
    fp4 = write(files.as_nvfp4(whole, layers), blobs=files.in_tensors(layers, format="nvfp4"))
    first = files.as_nvfp4(files.qwen3(256, 512, layers=27, vocab=64), [x for x in layers if ".27." not in x])
    del first["model.norm.weight"]
    marks = files.in_tensors([x for x in layers if ".27." not in x], format="nvfp4")
    expected = inspect_text_encoder(fp4).read_bytes
    assert expected == inspect_text_encoder(write(first, "first.safetensors", blobs=marks)).weights.tensor_bytes


def test_other_encoders_are_counted_without_fail(write):
    assert inspect_text_encoder(write(files.clip_l())).read_bytes == 12 * 2 * 3072 * 768
    assert inspect_text_encoder(write({})).read_bytes == 0


DECODER_ONLY = {k.removeprefix("decoder."): v for k, v in files.flux2_vae(96).items() if k.startswith("decoder.")}


@pytest.mark.parametrize(
    ("tensors", "kind", "read"),
    [
        (files.flux2_vae(), VaeKind.FLUX2, (128, 128, 128)),
        (files.flux2_vae(96), VaeKind.FLUX2_SMALL_DECODER, (128, 128, 96)),
        (files.flux2_vae(32), VaeKind.FLUX2_SMALL_DECODER, (128, 128, 32)),
        (files.flux1_vae(), VaeKind.FLUX1, (16, 128, 128)),
        (files.sd_vae(), VaeKind.SD, (4, 128, 128)),
        (files.kl_autoencoder(32), VaeKind.OTHER, (32, 128, 128)),
        (files.taesd(), VaeKind.OTHER, (0, 0, 0)),
        (DECODER_ONLY, VaeKind.OTHER, (0, 0, 0)),
        (KLEIN, VaeKind.OTHER, (0, 0, 0)),
    ],
)
def test_vaes(write, tensors, kind, read):
    vae = inspect_vae(write(tensors))
    assert (vae.kind, (vae.latent_channels, vae.encoder, vae.decoder)) == (kind, read)


@pytest.mark.parametrize(
    ("tensors", "holds"),
    [
        (KLEIN, Family.KLEIN_9B),
        (files.flux1(), Family.FLUX1),
        (files.qwen3_8b(), Encoder.QWEN3_8B),
        (files.flux2_vae(96), VaeKind.FLUX2_SMALL_DECODER),
        (files.lora(), AddOn.LORA),
        (KLEIN | files.lora(), AddOn.LORA),
        (KLEIN | {"vae.decoder.conv_in.weight": ("F32", [512, 32, 3, 3])}, None),
        (files.t5_xxl(), None),
        ({}, None),
    ],
)
def test_what_a_file_is_does_not_depend_on_what_it_was_taken_for(write, tensors, holds):
    path = write(tensors)
    assert [inspect(path).holds for inspect in INSPECTORS] == [holds] * 3


def test_split_downloads_are_told_by_name():
    assert shard(Path("model-00003-of-00005.safetensors")) == (3, 5)
    assert shard(Path("model-00001-of-00001.safetensors")) is None
    assert shard(Path("flux-2-klein-9b.safetensors")) is None


NAMES = sorted(KLEIN | files.qwen3_vl_8b() | files.flux2_vae() | files.klein_diffusers() | files.taesd())
TENSOR = st.tuples(st.sampled_from(["BF16", "U8", "I8"]), st.lists(st.sampled_from([0, 1, 32, 512]), max_size=4))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text("abc._0", max_size=9), TENSOR, max_size=12))
def test_odd_headers_are_values_never_errors(tmp_path_factory, tensors):
    path = files.write(tmp_path_factory.getbasetemp() / "odd.safetensors", tensors)
    for inspect in INSPECTORS:
        assert inspect(path).name


HOST_FILES = {
    "klein9b": KLEIN,
    "standin": files.flux2(256, 12288, 2, 2),
    "prefixed": files.flux2(256, 12288, 2, 2, prefix="model.diffusion_model."),
    "klein4b": files.flux2(**files.KLEIN_4B),
    "dev": files.flux2(**files.FLUX2_DEV, guidance=True),
    "flux1": files.flux1(),
    "diffusers": files.klein_diffusers(),
    "qwen8": files.qwen3_8b(),
    "qwen4": files.qwen3_4b(),
    "vl8": files.qwen3_vl_8b(),
    "qwen25": files.qwen25_vl_7b(),
    "mistral": files.mistral_small_3(),
    "t5": files.t5_xxl(),
    "clip": files.clip_l(),
    "vae2": files.flux2_vae(),
    "vae2small": files.flux2_vae(96),
    "vae1": files.flux1_vae(),
    "vaesd": files.sd_vae(),
}

QUANTISED = {
    "fp8": (files.as_fp8(KLEIN, LAYERS), files.in_metadata(LAYERS, format="float8_e4m3fn")),
    "nvfp4": (files.as_nvfp4(KLEIN, LAYERS), files.in_metadata(LAYERS, format="nvfp4")),
    "int8": (files.as_int8(KLEIN, LAYERS), None, files.in_tensors(LAYERS, format="int8_tensorwise")),
    "legacy": (files.as_legacy_fp8(KLEIN, LAYERS),),
    "bare_fp8": (files.as_fp8(KLEIN, LAYERS),),
    "bare_int8": (files.as_int8(KLEIN, LAYERS),),
}


@pytest.fixture(scope="module")
def host(checkout, tmp_path_factory):
    """What ComfyUI's own detection says of every file, by name, and where the files are."""
    folder = tmp_path_factory.mktemp("host")
    every = {name: (tensors,) for name, tensors in HOST_FILES.items()} | QUANTISED
    paths = [files.write(folder / f"{name}.safetensors", *parts) for name, parts in every.items()]
    script = Path(__file__).with_name("host_detection.py")
    command = [sys.executable, str(script), str(checkout), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"file"')]
    return {Path(row["file"]).stem: row for row in rows}, folder


@pytest.mark.host
def test_the_host_reads_the_same_dims(host):
    rows, folder = host
    for name in ("klein9b", "standin", "prefixed", "klein4b", "dev", "flux1"):
        model, unet = inspect_diffusion_model(folder / f"{name}.safetensors"), rows[name]["unet"]
        assert unet["image_model"] == ("flux" if model.family is Family.FLUX1 else "flux2")
        assert unet["guidance_embed"] == model.guidance
        in_channels = unet["in_channels"] * (4 if model.family is Family.FLUX1 else 1)
        read = ("hidden_size", "num_heads", "depth", "depth_single_blocks", "context_in_dim")
        assert dims(model) == (*(unet[key] for key in read), in_channels), name


@pytest.mark.host
def test_the_host_does_not_read_diffusers_names_of_flux2(host):
    rows, _ = host
    assert rows["diffusers"]["unet"]["image_model"] is None
    assert rows["diffusers"]["diffusers"] is False


@pytest.mark.host
def test_the_host_names_the_same_text_encoders(host):
    rows, folder = host
    names = {"qwen8": "QWEN3_8B", "qwen4": "QWEN3_4B", "vl8": "QWEN3VL_8B", "qwen25": "QWEN25_7B",
             "mistral": "MISTRAL3_24B", "t5": "T5_XXL", "clip": "CLIP_L", "klein9b": None}  # fmt: skip
    assert {name: rows[name]["te"] for name in names} == names
    kinds = {name: inspect_text_encoder(folder / f"{name}.safetensors").kind for name in names}
    assert [name for name, kind in kinds.items() if kind is not Encoder.OTHER] == ["qwen8", "qwen4", "vl8"]


@pytest.mark.host
def test_the_host_reads_the_same_vaes(host):
    rows, folder = host
    for name in ("vae2", "vae2small", "vae1", "vaesd"):
        vae = inspect_vae(folder / f"{name}.safetensors")
        assert rows[name]["vae"] == {"latent_channels": vae.latent_channels, "decoder": 4 * vae.decoder}, name


@pytest.mark.host
def test_the_host_finds_marks_where_we_do(host):
    rows, folder = host
    for name in QUANTISED:
        unmarked = inspect_diffusion_model(folder / f"{name}.safetensors").weights.unmarked
        assert rows[name]["marked"] == len(LAYERS) - unmarked == (0 if name.startswith("bare") else len(LAYERS))
