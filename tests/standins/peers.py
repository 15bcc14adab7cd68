"""The same stand-in weights inside diffusers' Klein pipelines."""

from types import SimpleNamespace

import torch
from torch import Tensor

from host.launch import cope_with_cpu_wheels

from .transformer import CONTEXT, HEAD_DIM, count
from .vae import CHANNEL_MULTIPLIERS, ENCODER_CHANNELS, LATENT


def diffusers_transformer(weights: dict[str, Tensor]):
    """Flux2Transformer2DModel holding a BFL-named state dict, by diffusers' own conversion."""
    cope_with_cpu_wheels()
    from diffusers import Flux2Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    hidden = weights["img_in.weight"].shape[0]
    model = Flux2Transformer2DModel(
        num_layers=count(weights, "double_blocks"),
        num_single_layers=count(weights, "single_blocks"),
        attention_head_dim=HEAD_DIM,
        num_attention_heads=hidden // HEAD_DIM,
        joint_attention_dim=CONTEXT,
        guidance_embeds=False,
    )
    model.load_state_dict(convert_flux2_transformer_checkpoint_to_diffusers(dict(weights)))
    return model.eval()


def diffusers_vae(weights: dict[str, Tensor]):
    """AutoencoderKLFlux2 holding a BFL-named state dict."""
    from diffusers import AutoencoderKLFlux2
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    decoder = weights["decoder.conv_in.weight"].shape[0] // CHANNEL_MULTIPLIERS[-1]
    model = AutoencoderKLFlux2(
        block_out_channels=tuple(ENCODER_CHANNELS * m for m in CHANNEL_MULTIPLIERS),
        decoder_block_out_channels=tuple(decoder * m for m in CHANNEL_MULTIPLIERS),
        latent_channels=LATENT,
    )
    renamed = {
        key.replace("encoder.quant_conv", "quant_conv").replace("decoder.post_quant_conv", "post_quant_conv"): value
        for key, value in weights.items()
    }
    statistics = {key: value for key, value in renamed.items() if key.startswith("bn.")}
    model.load_state_dict(convert_ldm_vae_checkpoint(renamed, dict(model.config)) | statistics)
    return model.eval()


def klein_pipeline(transformer_weights: dict[str, Tensor], vae_weights: dict[str, Tensor], *, kv: bool = False):
    """Flux2KleinPipeline (or its KV twin) without a text encoder: it is given prompt embeddings."""
    return _pipeline("Flux2KleinKVPipeline" if kv else "Flux2KleinPipeline", transformer_weights, vae_weights)


def inpaint_pipeline(transformer_weights: dict[str, Tensor], vae_weights: dict[str, Tensor]):
    """Flux2KleinInpaintPipeline; otherwise as `klein_pipeline`."""
    return _pipeline("Flux2KleinInpaintPipeline", transformer_weights, vae_weights)


def _pipeline(kind: str, transformer_weights: dict[str, Tensor], vae_weights: dict[str, Tensor]):
    cope_with_cpu_wheels()
    import diffusers
    from diffusers import FlowMatchEulerDiscreteScheduler

    parts = {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, time_shift_type="exponential"
        ),
        "vae": diffusers_vae(vae_weights),
        "text_encoder": None,
        "tokenizer": None,
        "transformer": diffusers_transformer(transformer_weights),
    }
    return getattr(diffusers, kind)(**parts, is_distilled=True)


def sample(pipeline, *, prompt_embeds: Tensor, noise: Tensor, images: list, steps: int = 4) -> Tensor:
    """The pipeline's final latents in the transformer's own space, (1, 128, h, w) as ComfyUI keeps them."""
    height, width = (side * 16 for side in noise.shape[2:])
    guidance = {} if "KV" in type(pipeline).__name__ else {"guidance_scale": 1.0}
    return _final_latents(
        pipeline,
        noise.shape[2:],
        image=images or None,
        prompt_embeds=prompt_embeds,
        latents=noise,
        height=height,
        width=width,
        num_inference_steps=steps,
        **guidance,
    )


def inpaint(pipeline, *, prompt_embeds: Tensor, seed: int, image, mask, steps: int = 4, strength: float = 1.0,
            reference=None) -> Tensor:  # fmt: skip
    """As `sample`, of Flux2KleinInpaintPipeline. It draws the noise itself: noise it is given it takes for pure."""
    return _final_latents(
        pipeline,
        (image.height // 16, image.width // 16),
        image=image,
        mask_image=mask,
        image_reference=reference,
        prompt_embeds=prompt_embeds,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps,
        strength=strength,
        guidance_scale=1.0,
    )


def _final_latents(pipeline, grid, **inputs) -> Tensor:
    last = SimpleNamespace(latents=None)

    def keep(_pipeline, _step, _timestep, state):
        last.latents = state["latents"]
        return state

    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        pipeline(output_type="latent", callback_on_step_end=keep, **inputs)
    return last.latents.permute(0, 2, 1).unflatten(2, grid)
