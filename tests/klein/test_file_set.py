import pytest
import weight_headers as files

from klein9b.klein.checkpoint import Encoder, Family, VaeKind
from klein9b.klein.file_set import WrongFile, check_set

KLEIN = files.flux2(**files.KLEIN_9B)
STANDIN = files.flux2(256, 12288, 2, 2)
PREFIX = "model.diffusion_model."
PREFIXED = files.flux2(256, 12288, 2, 2, prefix=PREFIX)
QWEN = files.qwen3_8b(layers=3, vocab=64)
MODEL_NEED = "but diffusion_model needs FLUX.2 [klein] 9B"
ENCODER_NEED = "but text_encoder needs Qwen3-8B (width 12288)"
VAE_NEED = "but vae needs the FLUX.2 VAE"
GATED = "(gated: accept its licence on that page first)"
GET_FP8 = (
    "get flux-2-klein-9b-fp8.safetensors from https://huggingface.co/black-forest-labs/FLUX.2-klein-9b-fp8 "
    f"{GATED} into models/diffusion_models."
)
GET_QWEN = (
    "get qwen_3_8b_fp8mixed.safetensors from https://huggingface.co/Comfy-Org/flux2-klein-9B "
    "(folder split_files/text_encoders) into models/text_encoders."
)
GET_VAE = (
    "get flux2-vae.safetensors from https://huggingface.co/Comfy-Org/flux2-dev "
    "(folder split_files/vae) into models/vae."
)
GGUF = "is a GGUF file, which only a GGUF loader node reads"
PICKLE = "is a PyTorch pickle (.pt, .ckpt), not safetensors"
WEB_PAGE = "is a web page saved under this name, not weights"
FLUX3_ASIDE = ", another model with another text encoder (Qwen3-VL-4B), which this pack does not run"
ASIDE = ", which ComfyUI's own Load Diffusion Model node loads"


@pytest.fixture
def chosen(tmp_path):
    """Three right files, of which a test replaces one: (input, file name, tensors or bytes)."""

    def choose(slot=None, name="", content=None, **more):
        paths = {
            "diffusion_model": files.write(tmp_path / "klein.safetensors", STANDIN),
            "text_encoder": files.write(tmp_path / "qwen.safetensors", QWEN),
            "vae": files.write(tmp_path / "ae.safetensors", files.flux2_vae()),
        }
        if slot:
            paths[slot] = tmp_path / name
            if isinstance(content, bytes):
                paths[slot].write_bytes(content)
            elif content is not None:
                files.write(paths[slot], content, **more)
        return paths

    return choose


def complaint(paths):
    with pytest.raises(WrongFile) as error:
        check_set(**paths)
    return str(error.value)


def test_a_right_set_is_returned(chosen):
    found = check_set(**chosen())
    assert found.diffusion_model.family is Family.KLEIN_9B
    assert (found.text_encoder.kind, found.vae.kind) == (Encoder.QWEN3_8B, VaeKind.FLUX2)
    assert found.diffusion_model.context == found.text_encoder.context
    assert found.diffusion_model.in_channels == found.vae.latent_channels


def test_the_small_decoder_and_the_prefixed_layout_are_right_too(chosen):
    assert check_set(**chosen("vae", "small.safetensors", files.flux2_vae(96)))
    assert check_set(**chosen("diffusion_model", "ldm.safetensors", PREFIXED))


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "flux-2-klein-4b.safetensors",
            files.flux2(**files.KLEIN_4B),
            f"is FLUX.2 [klein] 4B{ASIDE}, {MODEL_NEED}",
        ),
        ("dev.safetensors", files.flux2(**files.FLUX2_DEV), f"is FLUX.2 [dev]{ASIDE}, {MODEL_NEED}"),
        (
            "flux-3-image-klein.safetensors",
            files.flux3(),
            f"is FLUX.3 [klein] by its file name{FLUX3_ASIDE}, {MODEL_NEED}",
        ),
        ("renamed.safetensors", files.flux3(), f"is a FLUX.3 model{FLUX3_ASIDE}, {MODEL_NEED}"),
        ("flux1-dev.safetensors", files.flux1(), f"is FLUX.1{ASIDE}, {MODEL_NEED}"),
        (
            "style.safetensors",
            files.lora(),
            f"is a LoRA, which is added after this loader with LoraLoaderModelOnly, {MODEL_NEED}",
        ),
        (
            "all.safetensors",
            PREFIXED | {"vae.decoder.conv_in.weight": ("F32", [512, 32, 3, 3])},
            f"is a full checkpoint of FLUX.2 [klein] 9B (model, text encoder and VAE in one file), {MODEL_NEED} alone",
        ),
        (
            "qwen.safetensors",
            QWEN,
            f"is the text encoder Qwen3-8B, whose place is text_encoder, {MODEL_NEED}",
        ),
        ("v.safetensors", files.flux2_vae(), f"is the FLUX.2 VAE, whose place is vae, {MODEL_NEED}"),
        (
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            files.klein_diffusers(),
            f"is part 1 of 2 of a split download, {MODEL_NEED} in one file",
        ),
        (
            "diffusion_pytorch_model.safetensors",
            files.klein_diffusers(),
            "is FLUX.2 [klein] 9B in diffusers' tensor names, which ComfyUI does not read for FLUX.2, "
            f"{MODEL_NEED} in its single-file release",
        ),
        (
            "half.safetensors",
            without(STANDIN, "final_layer.linear.weight"),
            f"is FLUX.2 [klein] 9B without its tensor final_layer.linear.weight, {MODEL_NEED}",
        ),
        (
            "int8.safetensors",
            files.as_int8(KLEIN, files.block_matrices(KLEIN)),
            "is FLUX.2 [klein] 9B in int8 with scales but without ComfyUI's marks for that, "
            f"so it would load as noise, {MODEL_NEED}",
        ),
        ("klein.gguf", b"GGUF\x03\0\0\0", f"{GGUF}, {MODEL_NEED}"),
        ("klein.ckpt", b"PK\x03\x04\0\0\0\0x", f"{PICKLE}, {MODEL_NEED}"),
        ("page.safetensors", b"<!doctype html>", f"{WEB_PAGE}, {MODEL_NEED}"),
        ("none.safetensors", b"", f"is empty, {MODEL_NEED}"),
        ("gone.safetensors", None, f"is not there, {MODEL_NEED}"),
        (
            "odd.safetensors",
            {"a.b": ("F32", [1])},
            f"is none of the models this pack knows (1 tensors, the first is a.b), {MODEL_NEED}",
        ),
    ],
)
def test_wrong_diffusion_models(chosen, name, content, sentence):
    get = GET_FP8
    assert complaint(chosen("diffusion_model", name, content)) == f"{name} {sentence}: {get}"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "qwen_3_4b.safetensors",
            files.qwen3_4b(),
            f"is the text encoder Qwen3-4B (width 7680, for FLUX.2 [klein] 4B), {ENCODER_NEED}",
        ),
        (
            "vl.safetensors",
            files.qwen3_vl_8b(),
            "is the text encoder Qwen3-VL-8B, whose width fits but whose weights Klein was not trained on, "
            f"{ENCODER_NEED}",
        ),
        (
            "qwen3vl_4b.safetensors",
            files.qwen3_vl_4b(),
            f"is the text encoder Qwen3-VL-4B (width 7680), which FLUX.3 [klein] reads, {ENCODER_NEED}",
        ),
        (
            "mistral.safetensors",
            files.mistral_small_3(),
            f"is the text encoder Mistral-Small-3 (width 15360), {ENCODER_NEED}",
        ),
        ("qwen25.safetensors", files.qwen25_vl_7b(), f"is the text encoder Qwen2.5-VL-7B, {ENCODER_NEED}"),
        ("t5xxl.safetensors", files.t5_xxl(), f"is the text encoder T5-XXL, {ENCODER_NEED}"),
        ("clip_l.safetensors", files.clip_l(), f"is the text encoder CLIP-L, {ENCODER_NEED}"),
        ("k.safetensors", STANDIN, f"is FLUX.2 [klein] 9B, whose place is diffusion_model, {ENCODER_NEED}"),
        (
            "model-00001-of-00005.safetensors",
            QWEN,
            f"is part 1 of 5 of a split download, {ENCODER_NEED} in one file",
        ),
    ],
)
def test_wrong_text_encoders(chosen, name, content, sentence):
    assert complaint(chosen("text_encoder", name, content)) == f"{name} {sentence}: {GET_QWEN}"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("ae2.safetensors", files.flux1_vae(), f"is a 16-channel VAE of the FLUX.1 and SD3 kind, {VAE_NEED}"),
        ("sd.safetensors", files.sd_vae(), f"is a 4-channel Stable Diffusion VAE, {VAE_NEED}"),
        ("taesd.safetensors", files.taesd(), f"is a tiny preview VAE (TAESD), {VAE_NEED}"),
        (
            "small_decoder.safetensors",
            {k.removeprefix("decoder."): v for k, v in files.flux2_vae(96).items() if k.startswith("decoder.")},
            f"is the decoder half of a VAE, {VAE_NEED}",
        ),
        ("k.safetensors", STANDIN, f"is FLUX.2 [klein] 9B, whose place is diffusion_model, {VAE_NEED}"),
    ],
)
def test_wrong_vaes(chosen, name, content, sentence):
    assert complaint(chosen("vae", name, content)) == f"{name} {sentence}: {GET_VAE}"


def test_a_download_cut_short_is_fetched_again_under_its_own_name(chosen):
    paths = chosen("diffusion_model", "flux-2-klein-base-9b.safetensors", files.flux2(**files.KLEIN_9B))
    with paths["diffusion_model"].open("r+b") as file:
        file.truncate(9_000_000_000)
    assert complaint(paths) == (
        "flux-2-klein-base-9b.safetensors is cut short (9.00 GB of 18.16 GB are there), "
        "but diffusion_model needs FLUX.2 [klein] 9B: get flux-2-klein-base-9b.safetensors from "
        f"https://huggingface.co/black-forest-labs/FLUX.2-klein-base-9B {GATED} into models/diffusion_models."
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my-klein-kv.safetensors", "flux-2-klein-9b-kv-fp8.safetensors"),
        ("klein-base.safetensors", "flux-2-klein-base-9b-fp8.safetensors"),
        ("sdxl-base.safetensors", "flux-2-klein-9b-fp8.safetensors"),
    ],
)
def test_the_advice_follows_the_variant_in_a_kleins_name(chosen, name, file):
    assert f"get {file} from" in complaint(chosen("diffusion_model", name, b""))


def test_every_advice_names_a_page_and_a_folder(chosen):
    for slot, folder in (
        ("text_encoder", "text_encoders"),
        ("vae", "vae"),
        ("diffusion_model", "diffusion_models"),
    ):
        sentence = complaint(chosen(slot, "none.safetensors", b""))
        assert "https://huggingface.co/" in sentence and sentence.endswith(f"into models/{folder}.")
