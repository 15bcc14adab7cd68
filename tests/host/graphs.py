"""API-format graphs of this pack's nodes and of the stock nodes they stand beside."""

MODEL = "flux-2-klein-9b.safetensors"
TEXT_ENCODER = "qwen_3_8b_fp8mixed.safetensors"
VAE = "flux2-vae.safetensors"


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def load_images(names: list[str]) -> dict:
    return {f"photo_{i}": node("LoadImage", image=name) for i, name in enumerate(names, 1)}


def _sampling(seed: int, *, latent: list) -> dict:
    """What both graphs have between their guider and their VAE decode."""
    return {
        "noise": node("RandomNoise", noise_seed=seed),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=latent,
        ),
    }


def klein(
    images: list[str],
    *,
    prompt: str = "a red fox in the snow",
    embeds: str | None = None,
    seed: int = 7,
    steps: int = 4,
    cfg: float = 1.0,
    sampler: dict | None = None,
    megapixels: float = 0.0625,
    model: str = MODEL,
    fit: str = "crop",
) -> dict:
    """The pack's own graph: loader, references, scheduler, sampler, decode, restore, save."""
    sockets = {f"images.image_{i}": [f"photo_{i}", 0] for i in range(1, len(images) + 1)}
    square = {"aspect_ratio": "1:1", "aspect_ratio.megapixels": megapixels}
    sized = {"aspect_ratio": "match_input_image"} if images else square
    prompt_node = (
        node("ProbeConditioning", path=embeds) if embeds else node("CLIPTextEncode", clip=["load", 1], text=prompt)
    )
    return {
        **load_images(images),
        "load": node("Klein9BLoader", diffusion_model=model, text_encoder=TEXT_ENCODER, vae=VAE, variant="auto"),
        "prompt": prompt_node,
        "references": node(
            "Klein9BReferences",
            positive=["prompt", 0],
            vae=["load", 2],
            fit=fit,
            **sized,
            **sockets,
        ),
        "sigmas": node("Klein9BScheduler", latent=["references", 2], steps=steps, denoise=1.0, shift="flux2"),
        "sampler": node("Klein9BSampler", **(sampler or {"sampler": "euler"})),
        "guider": node("CFGGuider", model=["load", 0], positive=["references", 0], negative=["references", 1], cfg=cfg),
        **_sampling(seed, latent=["references", 2]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "restore": node("Klein9BRestore", image=["decode", 0], frame=["references", 3]),
        "save": node("SaveImage", images=["restore", 0], filename_prefix="klein"),
    }


def stock(
    images: list[str],
    *,
    embeds: str | None = None,
    prompt: str = "a red fox in the snow",
    seed: int = 7,
    steps: int = 4,
    size: tuple[int, int] = (256, 256),
) -> dict:
    """The same run on ComfyUI's own nodes, as the official template wires them, without its rescaling."""
    prompt_node = (
        node("ProbeConditioning", path=embeds) if embeds else node("CLIPTextEncode", clip=["clip", 0], text=prompt)
    )
    graph = {
        **load_images(images),
        "model": node("UNETLoader", unet_name=MODEL, weight_dtype="default"),
        "clip": node("CLIPLoader", clip_name=TEXT_ENCODER, type="flux2"),
        "vae": node("VAELoader", vae_name=VAE),
        "prompt": prompt_node,
        "zero": node("ConditioningZeroOut", conditioning=["prompt", 0]),
    }
    positive, negative = ["prompt", 0], ["zero", 0]
    for i in range(1, len(images) + 1):
        graph[f"encode_{i}"] = node("VAEEncode", pixels=[f"photo_{i}", 0], vae=["vae", 0])
        graph[f"positive_{i}"] = node("ReferenceLatent", conditioning=positive, latent=[f"encode_{i}", 0])
        graph[f"negative_{i}"] = node("ReferenceLatent", conditioning=negative, latent=[f"encode_{i}", 0])
        positive, negative = [f"positive_{i}", 0], [f"negative_{i}", 0]
    width, height = size
    return graph | {
        "latent": node("EmptyFlux2LatentImage", width=width, height=height, batch_size=1),
        "sigmas": node("Flux2Scheduler", steps=steps, width=width, height=height),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "guider": node("CFGGuider", model=["model", 0], positive=positive, negative=negative, cfg=1.0),
        **_sampling(seed, latent=["latent", 0]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="stock"),
    }


# What Segmind Remote's widgets hold unless a test says otherwise.
REMOTE_WIDGETS = {
    "negative_prompt": "low quality, blurry, less details",
    "image_urls": "",
    "seed": 7,
    "cfg": 5.0,
    "sampler": "euler",
    "steps": 20,
    "aspect_ratio": "1:1",
    "go_fast": True,
    "image_format": "png",
    "quality": 90,
    "count": 1,
    "timeout_s": 120,
    "on_item_error": "raise",
    "max_cost_usd": 0.0,
    "reuse": "auto",
}


def remote(images: list[str], *, prompt: str, name: str = "remote", **changes) -> dict:
    """Segmind Remote on photographs, its picture saved and its receipt in the history."""
    sockets = {f"images.image_{i}": [f"photo_{i}", 0] for i in range(1, len(images) + 1)}
    return {
        **load_images(images),
        name: node("SegmindRemote", prompt=prompt, **REMOTE_WIDGETS | changes, **sockets),
        f"{name}_save": node("SaveImage", images=[name, 0], filename_prefix=name),
        f"{name}_receipt": node("ProbeText", text=[name, 2]),
    }
