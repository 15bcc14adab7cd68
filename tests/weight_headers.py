"""Safetensors files with real key names and shapes and no weights: a header, then a hole of the right size.

Klein's names, shapes and dtypes follow the releases (201 tensors in the 9B); text encoders follow the
transformers names that Comfy-Org's files keep; VAEs follow the KL autoencoder of Black Forest Labs.
"""

import json
import os
from math import prod

BITS = {"F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "I64": 64}
KLEIN_9B = {"hidden": 4096, "context": 12288, "double": 8, "single": 24}
KLEIN_4B = {"hidden": 3072, "context": 7680, "double": 5, "single": 20}
FLUX2_DEV = {"hidden": 6144, "context": 15360, "double": 8, "single": 48}


def write(path, tensors, metadata=None, blobs=None):
    """tensors: name -> (dtype, shape); blobs: name -> bytes of a small U8 tensor. Returns the path."""
    tensors = dict(tensors) | {name: ("U8", [len(blob)]) for name, blob in (blobs or {}).items()}
    entries, offset = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(entries).encode()
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, blob in (blobs or {}).items():
            file.seek(8 + len(raw) + entries[name]["data_offsets"][0])
            file.write(blob)
    os.truncate(path, 8 + len(raw) + offset)
    return path


def flux2(hidden, context, double, single, guidance=False, dtype="BF16", prefix=""):
    shapes = {
        "img_in.weight": [hidden, 128],
        "txt_in.weight": [hidden, context],
        "time_in.in_layer.weight": [hidden, 256],
        "time_in.out_layer.weight": [hidden, hidden],
        "double_stream_modulation_img.lin.weight": [6 * hidden, hidden],
        "double_stream_modulation_txt.lin.weight": [6 * hidden, hidden],
        "single_stream_modulation.lin.weight": [3 * hidden, hidden],
        "final_layer.adaLN_modulation.1.weight": [2 * hidden, hidden],
        "final_layer.linear.weight": [128, hidden],
    }
    if guidance:
        shapes |= {
            "guidance_in.in_layer.weight": [hidden, 256],
            "guidance_in.out_layer.weight": [hidden, hidden],
        }
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            shapes |= {f"{block}_attn.norm.{n}_norm.scale": [128] for n in ("key", "query")}
            shapes[f"{block}_attn.qkv.weight"] = [3 * hidden, hidden]
            shapes[f"{block}_attn.proj.weight"] = [hidden, hidden]
            shapes[f"{block}_mlp.0.weight"] = [6 * hidden, hidden]
            shapes[f"{block}_mlp.2.weight"] = [hidden, 3 * hidden]
    for i in range(single):
        shapes |= {f"single_blocks.{i}.norm.{n}_norm.scale": [128] for n in ("key", "query")}
        shapes[f"single_blocks.{i}.linear1.weight"] = [9 * hidden, hidden]
        shapes[f"single_blocks.{i}.linear2.weight"] = [hidden, 4 * hidden]
    return {prefix + name: (dtype, shape) for name, shape in shapes.items()}


def block_matrices(tensors):
    """The layers official releases quantise: every matrix inside a block."""
    matrices = [name for name, (_, shape) in tensors.items() if name.endswith(".weight") and len(shape) == 2]
    return [name.removesuffix(".weight") for name in matrices if "_blocks." in name or ".layers." in name]


def as_fp8(tensors, layers, dtype="F8_E4M3", input_scale=True):
    out = dict(tensors)
    for layer in layers:
        out[f"{layer}.weight"] = (dtype, out[f"{layer}.weight"][1])
        out[f"{layer}.weight_scale"] = ("F32", [])
        if input_scale:
            out[f"{layer}.input_scale"] = ("F32", [])
    return out


def as_legacy_fp8(tensors, layers):
    out = dict(tensors) | {"scaled_fp8": ("F8_E4M3", [2])}
    for layer in layers:
        out[f"{layer}.weight"] = ("F8_E4M3", out[f"{layer}.weight"][1])
        out[f"{layer}.scale_weight"] = ("F32", [])
    return out


def as_int8(tensors, layers):
    out = dict(tensors)
    for layer in layers:
        rows = out[f"{layer}.weight"][1]
        out[f"{layer}.weight"] = ("I8", rows)
        out[f"{layer}.weight_scale"] = ("F32", [rows[0], 1])
    return out


def as_nvfp4(tensors, layers):
    out = dict(tensors)
    for layer in layers:
        rows, columns = out[f"{layer}.weight"][1]
        out[f"{layer}.weight"] = ("U8", [rows, columns // 2])
        out[f"{layer}.weight_scale"] = ("F8_E4M3", [rows, columns // 16])
        out[f"{layer}.weight_scale_2"] = ("F32", [])
    return out


def in_metadata(layers, **mark):
    marks = {"format_version": "1.0", "layers": {layer: mark for layer in layers}}
    return {"_quantization_metadata": json.dumps(marks)}


def in_tensors(layers, **mark):
    return {f"{layer}.comfy_quant": json.dumps(mark).encode() for layer in layers}


def klein_diffusers(hidden=4096, context=12288):
    block, single = "transformer_blocks.0", "single_transformer_blocks.0"
    shapes = {
        "x_embedder.weight": [hidden, 128],
        "context_embedder.weight": [hidden, context],
        "double_stream_modulation_img.linear.weight": [6 * hidden, hidden],
        "double_stream_modulation_txt.linear.weight": [6 * hidden, hidden],
        "single_stream_modulation.linear.weight": [3 * hidden, hidden],
        "time_guidance_embed.timestep_embedder.linear_1.weight": [hidden, 256],
        "norm_out.linear.weight": [2 * hidden, hidden],
        "proj_out.weight": [128, hidden],
        f"{block}.attn.to_q.weight": [hidden, hidden],
        f"{single}.attn.to_qkv_mlp_proj.weight": [9 * hidden, hidden],
    }
    return {name: ("BF16", shape) for name, shape in shapes.items()}


def flux1(hidden=3072, double=19, single=38):
    shapes = {
        "img_in.weight": [hidden, 64],
        "img_in.bias": [hidden],
        "txt_in.weight": [hidden, 4096],
        "vector_in.in_layer.weight": [hidden, 768],
        "guidance_in.in_layer.weight": [hidden, 256],
        "final_layer.linear.weight": [64, hidden],
    }
    for i in range(double):
        block = f"double_blocks.{i}"
        shapes[f"{block}.img_mod.lin.weight"] = [6 * hidden, hidden]
        shapes[f"{block}.img_attn.norm.key_norm.scale"] = [128]
        shapes[f"{block}.img_attn.qkv.weight"] = [3 * hidden, hidden]
    for i in range(single):
        shapes[f"single_blocks.{i}.linear1.weight"] = [7 * hidden, hidden]
    return {name: ("BF16", shape) for name, shape in shapes.items()}


def qwen3(hidden, mlp, layers=36, heads=32, vocab=151936, stack="model.", dtype="BF16", lm_head=False):
    shapes = {f"{stack}embed_tokens.weight": [vocab, hidden], f"{stack}norm.weight": [hidden]}
    if lm_head:
        shapes["lm_head.weight"] = [vocab, hidden]
    for i in range(layers):
        layer = f"{stack}layers.{i}."
        shapes |= {f"{layer}{n}_layernorm.weight": [hidden] for n in ("input", "post_attention")}
        shapes |= {f"{layer}self_attn.{n}_norm.weight": [128] for n in "qk"}
        shapes[f"{layer}self_attn.q_proj.weight"] = [heads * 128, hidden]
        shapes |= {f"{layer}self_attn.{n}_proj.weight": [1024, hidden] for n in "kv"}
        shapes[f"{layer}self_attn.o_proj.weight"] = [hidden, heads * 128]
        shapes |= {f"{layer}mlp.{n}_proj.weight": [mlp, hidden] for n in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = [hidden, mlp]
    return {name: (dtype, shape) for name, shape in shapes.items()}


def qwen3_8b(**changes):
    return qwen3(4096, 12288, lm_head=True, **changes)


def qwen3_4b():
    return qwen3(2560, 9728)


def qwen3_vl_8b():
    visual = {"model.visual.deepstack_merger_list.0.norm.weight": ("BF16", [4608]),
              "model.visual.merger.linear_fc2.weight": ("BF16", [4096, 4608])}  # fmt: skip
    return qwen3(4096, 12288, stack="model.language_model.") | visual


def qwen3_vl_4b():
    visual = {"model.visual.deepstack_merger_list.0.norm.weight": ("BF16", [4096]),
              "model.visual.merger.linear_fc2.weight": ("BF16", [2560, 4096])}  # fmt: skip
    return qwen3(2560, 9728, stack="model.language_model.") | visual


def flux3(hidden=3072, context=2560, depth=2, streams=("image", "image_cond"), prefix=""):
    """By the names of the FLUX 3 transformer in FLUX Action; FLUX.3 [klein]'s own streams were not seen."""
    shapes = {"txt_in.weight": [hidden, context], "time_in.in_layer.weight": [hidden, 256]}
    for stream in (*streams, "txt"):
        shapes[f"early_stream_modulations.{stream}.lin.weight"] = [3 * hidden, hidden]
        shapes[f"single_stream_modulations.{stream}.lin.weight"] = [3 * hidden, hidden]
    shapes |= {f"emb_in.{stream}.weight": [hidden, 128] for stream in streams}
    groups = ["txt_mode_blocks", "single_blocks", *(f"content_mode_blocks.{stream}" for stream in streams)]
    for block in (f"{group}.{i}" for group in groups for i in range(depth)):
        shapes |= {f"{block}.{n}_proj.weight": [hidden, hidden] for n in "qkv"}
        shapes[f"{block}.mlp_in.weight"] = [6 * hidden, hidden]
    return {prefix + name: ("BF16", shape) for name, shape in shapes.items()}


def qwen25_vl_7b():
    tensors = qwen3(3584, 18944, layers=28)
    kept = {name: value for name, value in tensors.items() if "_norm.weight" not in name or "layernorm" in name}
    return kept | {"model.layers.0.self_attn.k_proj.bias": ("BF16", [512])}


def mistral_small_3(layers=40):
    tensors = qwen3(5120, 32768, layers=layers, vocab=131072)
    return {name: value for name, value in tensors.items() if "q_norm" not in name and "k_norm" not in name}


def t5_xxl():
    shapes = {"shared.weight": [32128, 4096], "encoder.final_layer_norm.weight": [4096]}
    for i in range(24):
        block = f"encoder.block.{i}.layer"
        shapes[f"{block}.0.SelfAttention.k.weight"] = [4096, 4096]
        shapes |= {f"{block}.1.DenseReluDense.wi_{n}.weight": [10240, 4096] for n in (0, 1)}
    return {name: ("F16", shape) for name, shape in shapes.items()}


def clip_l():
    return {f"text_model.encoder.layers.{i}.mlp.fc1.weight": ("F16", [3072, 768]) for i in range(12)}


def kl_autoencoder(latent, width=128, decoder_width=None, post_quant=False, batch_norm=False, embed=None):
    """Encoder, decoder and the convolutions between them, with every tensor ComfyUI's classes have."""
    shapes = half("encoder", 3, 2 * latent, width, levels=(1, 2, 4, 4), blocks=2)
    shapes |= half("decoder", latent, 3, decoder_width or width, levels=(1, 2, 4, 4), blocks=3)
    if post_quant:
        shapes["quant_conv.weight"] = [2 * latent, 2 * latent, 1, 1]
        shapes["post_quant_conv.weight"] = [latent, latent, 1, 1]
    if batch_norm:
        shapes |= {"bn.running_mean": [4 * latent], "bn.running_var": [4 * latent]}
    return {name: ("F32", shape) for name, shape in shapes.items()}


def half(name, inputs, outputs, width, levels, blocks):
    """One half of a KL autoencoder; the decoder runs its levels from the last to the first."""
    decoding = name == "decoder"
    top = width * levels[-1]
    ends = (top, width) if decoding else (width, top)
    shapes = conv(f"{name}.conv_in", ends[0], inputs) | conv(f"{name}.conv_out", outputs, ends[1])
    shapes |= norm(f"{name}.norm_out", ends[1])
    channels = ends[0]
    for level in reversed(range(len(levels))) if decoding else range(len(levels)):
        place = f"{name}.{'up' if decoding else 'down'}.{level}"
        for block in range(blocks):
            shapes |= resnet(f"{place}.block.{block}", channels, width * levels[level])
            channels = width * levels[level]
        if decoding and level:
            shapes |= conv(f"{place}.upsample.conv", channels, channels)
        if not decoding and level < len(levels) - 1:
            shapes |= conv(f"{place}.downsample.conv", channels, channels)
    for block in (1, 2):
        shapes |= resnet(f"{name}.mid.block_{block}", top, top)
    shapes |= norm(f"{name}.mid.attn_1.norm", top)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= conv(f"{name}.mid.attn_1.{part}", top, top, 1)
    return shapes


def conv(name, outputs, inputs, size=3):
    return {f"{name}.weight": [outputs, inputs, size, size], f"{name}.bias": [outputs]}


def norm(name, channels):
    return {f"{name}.weight": [channels], f"{name}.bias": [channels]}


def resnet(name, inputs, outputs):
    shapes = norm(f"{name}.norm1", inputs) | conv(f"{name}.conv1", outputs, inputs)
    shapes |= norm(f"{name}.norm2", outputs) | conv(f"{name}.conv2", outputs, outputs)
    return shapes | (conv(f"{name}.nin_shortcut", outputs, inputs, 1) if inputs != outputs else {})


def flux2_vae(decoder_width=None):
    return kl_autoencoder(32, decoder_width=decoder_width, post_quant=True, batch_norm=True)


def flux1_vae():
    return kl_autoencoder(16)


def sd_vae():
    return kl_autoencoder(4, post_quant=True)


def taesd():
    return {f"taesd_decoder.{i}.weight": ("F32", [64, 4 if i == 1 else 64, 3, 3]) for i in (1, 3, 5)}


def lora():
    base = "diffusion_model.double_blocks.0.img_attn.qkv"
    return {f"{base}.lora_A.weight": ("BF16", [16, 4096]), f"{base}.lora_B.weight": ("BF16", [12288, 16])}
