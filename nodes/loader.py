"""Klein 9B Loader: three files read by their headers, then loaded by the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.v0_0_2 import io

from ..klein import file_names
from ..klein.file_set import WrongFile, check_set
from ..klein.variant import VARIANTS, decide_variant
from .host.chosen_files import absent_because, with_gguf
from .host.fits import watch
from .host.lazy_clip import lazy_clip
from .host.loaded_klein import LoadedKlein
from .host.newer_host import needs_host
from .host.settings_said import say_mistaken_settings
from .host.text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

AUTO = "auto"


class Klein9BLoader(io.ComfyNode):
    """Loads Klein 9B's diffusion model, text encoder and VAE, after checking that they belong together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BLoader",
            display_name="Klein 9B Loader",
            category="Klein 9B",
            description=(
                "Loads the three files of FLUX.2 [klein] 9B. Each file's header is read first: a wrong pair, a "
                "broken download or another model's file is named in one sentence before anything is loaded."
            ),
            search_aliases=["load klein", "flux 2 klein loader", "unet loader", "load diffusion model", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "diffusion_model",
                    **_files("diffusion_models", file_names.DIFFUSION_MODEL),
                    tooltip="The Klein 9B file from models/diffusion_models, such as flux-2-klein-9b-fp8.safetensors.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    **_files("text_encoders", file_names.TEXT_ENCODER),
                    tooltip="Qwen3-8B from models/text_encoders, such as qwen_3_8b_fp8mixed.safetensors. The 4B "
                    "encoder belongs to Klein 4B and does not fit.",
                ),
                io.Combo.Input(
                    "vae",
                    **_files("vae", file_names.VAE),
                    tooltip="The FLUX.2 VAE from models/vae: flux2-vae.safetensors, or "
                    "full_encoder_small_decoder.safetensors, which decodes faster.",
                ),
                io.Combo.Input(
                    "variant",
                    options=[AUTO, *VARIANTS],
                    default=AUTO,
                    tooltip="Which Klein 9B this is. The weights cannot tell: auto reads the file's metadata, then "
                    "its name. Choose it yourself where the file was renamed.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The diffusion model; it remembers its variant for later nodes."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Qwen3-8B, for Klein 9B Text Encode or CLIP Text Encode. Read from disk when a prompt is "
                    "really encoded.",
                ),
                io.Vae.Output(display_name="vae", tooltip="For Klein 9B References and VAE Decode."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, diffusion_model: str | None = None, text_encoder: str | None = None, vae: str | None = None
    ) -> bool | str:
        """Says of a file that is not there where it comes from, in place of the host's list of those that are."""
        return absent_because(diffusion_model=diffusion_model, text_encoder=text_encoder, vae=vae) or True

    @classmethod
    @needs_host()
    def execute(cls, diffusion_model: str, text_encoder: str, vae: str, variant: str) -> io.NodeOutput:
        model_path = folder_paths.get_full_path_or_raise("diffusion_models", diffusion_model)
        encoder_path = folder_paths.get_full_path_or_raise("text_encoders", text_encoder)
        vae_path = folder_paths.get_full_path_or_raise("vae", vae)
        try:
            files = check_set(model_path, encoder_path, vae_path)
        except WrongFile as error:
            raise with_gguf(error) from error
        loaded = LoadedKlein(files, decide_variant(files.diffusion_model.variant, variant))
        model = _load_model(model_path)
        loaded.keep_on(model)
        watch(model)
        say_mistaken_settings(model, loaded, cls)
        show_text(cls, loaded.summary)
        clip = lazy_clip(encoder_path, folder_paths.get_folder_paths("embeddings"), loaded)
        return io.NodeOutput(model, clip, _load_vae(vae_path))


def _files(folder: str, kind: file_names.Kind) -> dict[str, Any]:
    """What is installed, Klein 9B's first, which is the default; where there is none, the file to get is."""
    names = file_names.klein_first(folder_paths.get_filename_list(folder), kind)
    return {"options": names, "default": file_names.first_choice(names, kind)}


def _load_model(path: str) -> ModelPatcher:
    import comfy.sd

    return comfy.sd.load_diffusion_model(path)


def _load_vae(path: str) -> VAE:
    import comfy.sd
    import comfy.utils

    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (path, metadata, None))
    return vae
