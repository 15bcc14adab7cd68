"""Runs in its own process: what ComfyUI itself makes of the headers in the given files, as JSON lines.

usage: python host_detection.py <ComfyUI checkout> <file>...
CPU-only wheels of torchvision and torchaudio may fail to import; detection needs neither, so both are stubs.
"""

import importlib.abc
import importlib.machinery
import json
import sys
from unittest.mock import MagicMock


class StubbedMedia(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchvision", "torchaudio"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        stub = MagicMock(name=spec.name)
        stub.__spec__, stub.__path__, stub.__name__ = spec, [], spec.name
        return stub

    def exec_module(self, module):
        pass


def meta_tensors(path):
    """By hand, since safe_open maps the whole file and 64 GB of holes need not fit the machine."""
    import torch

    with open(path, "rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = entries.pop("__metadata__", None)
    dtypes = {"F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn, "U8": torch.uint8, "I8": torch.int8}
    sd = {
        name: torch.empty(entry["shape"], dtype=dtypes.get(entry["dtype"], torch.bfloat16), device="meta")
        for name, entry in entries.items()
    }
    return sd, metadata


def marked_layers(sd, metadata):
    import comfy.utils

    converted, _ = comfy.utils.convert_old_quants(dict(sd), "", metadata=metadata)
    return sum(name.endswith(".comfy_quant") for name in converted)


def unet(sd):
    import comfy.model_detection as detection
    import comfy.utils

    prefix = detection.unet_prefix_from_state_dict(sd)
    stripped = comfy.utils.state_dict_prefix_replace(dict(sd), {prefix: ""}, filter_keys=True) or sd
    config = detection.detect_unet_config(stripped, "") or {}
    names = ("image_model", "hidden_size", "num_heads", "depth", "depth_single_blocks", "context_in_dim",
             "in_channels", "guidance_embed")  # fmt: skip
    return {name: config.get(name) for name in names}


def diffusers_names(sd):
    import comfy.model_detection as detection

    try:
        return bool(detection.convert_diffusers_mmdit(dict(sd), ""))
    except KeyError:
        return False


def vae(sd):
    import comfy.sd
    import torch

    with torch.device("meta"):
        loaded = comfy.sd.VAE(sd=dict(sd), device=torch.device("meta"))
    model = loaded.first_stage_model
    decoder = getattr(getattr(model, "decoder", None), "conv_in", None)
    return {"latent_channels": loaded.latent_channels, "decoder": decoder and decoder.weight.shape[0]}


def main():
    checkout, files = sys.argv[1], sys.argv[2:]
    sys.argv = ["comfy", "--cpu"]
    sys.path.insert(0, checkout)
    sys.meta_path.insert(0, StubbedMedia())
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd

    for path in files:
        sd, metadata = meta_tensors(path)
        kind = comfy.sd.detect_te_model(sd)
        row = {"file": path, "unet": unet(sd), "te": kind and kind.name, "diffusers": diffusers_names(sd)}
        row["marked"] = marked_layers(sd, metadata)
        if "decoder.conv_in.weight" in sd and "encoder.conv_in.weight" in sd:
            row["vae"] = vae(sd)
        print(json.dumps(row), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
