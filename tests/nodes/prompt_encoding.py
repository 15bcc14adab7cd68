"""Prompts through Klein 9B Text Encode and through stock, in the real host."""

import torch

TEXT = "a red fox in the snow"
DISTILLED, BASE, KV = (f"flux-2-klein-{name}.safetensors" for name in ("9b", "base-9b", "9b-kv-fp8"))


def lazy(encoder, model=DISTILLED, chosen="auto"):
    """As Klein 9B Loader hands it on, without the model and the VAE."""
    from klein9b.klein.file_set import check_set
    from klein9b.klein.variant import decide_variant
    from klein9b.nodes.host.lazy_clip import lazy_clip
    from klein9b.nodes.host.loaded_klein import LoadedKlein

    models = encoder.parents[1]
    files = check_set(models / "diffusion_models" / model, encoder, models / "vae" / "flux2-vae.safetensors")
    loaded = LoadedKlein(files, decide_variant(files.diffusion_model.variant, chosen))
    return unpadded(lazy_clip(str(encoder), [], loaded))


def unpadded(clip):
    """Without the padding to 512 tokens, which takes a processor's time and changes nothing here."""
    clip.set_tokenizer_option("qwen3_8b_min_length", 1)
    return clip


def stock_clip(path):
    import comfy.sd

    return unpadded(comfy.sd.load_clip([str(path)], embedding_directory=[], clip_type=comfy.sd.CLIPType.FLUX2))


def stock_encode(clip, text):
    import nodes

    return nodes.CLIPTextEncode().encode(clip, text)[0]


def encode(clip, *args, **options):
    from klein9b.nodes.text_encode import Klein9BTextEncode

    return Klein9BTextEncode.execute(clip, *args, **options).args


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1]["attention_mask"], b[1]["attention_mask"])
        for a, b in zip(one, other)
    )


def key_of(clip):
    from klein9b.nodes.host.kept_prompts import prompt_key
    from klein9b.nodes.host.klein_encoder import Precision

    return prompt_key(clip, TEXT, Precision.FP32)


def restart():
    """As far as kept prompts are concerned."""
    from klein9b.nodes.host import kept_prompts

    kept_prompts._store_of.cache_clear()
