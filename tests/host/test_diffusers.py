"""Our graph in the running host against diffusers' Flux2KleinPipeline: same weights, embeddings, photographs, noise.

Where the two differ by design: diffusers caps a single reference at 1024^2 pixels, BFL and we at 2024^2; diffusers
truncates prompts at 512 tokens, the host does not. Neither is reached here.
"""

import pytest
import torch
from PIL import Image

import standins
from host.graphs import klein, node

pytestmark = [pytest.mark.host, pytest.mark.peer]

# Measured 2e-7 to 1.3e-6: float32 sums in another order. Swapped references show as 1.7e-3.
TOLERANCE = 1e-5
SEED = 7


@pytest.fixture(scope="module")
def pipeline():
    pytest.importorskip("diffusers")
    from standins.peers import klein_pipeline

    return klein_pipeline(standins.transformer(), standins.vae())


@pytest.fixture(scope="module")
def embeds(tmp_path_factory):
    """Prompt embeddings of unit scale, as the trained text encoder's normed layers have."""
    tensor = torch.randn(1, 512, 12288, generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("embeds") / "prompt.pt"
    torch.save(tensor, path)
    return path


def ours(host, tmp_path, embeds, names):
    path = tmp_path / "latent.pt"
    graph = klein(names, embeds=str(embeds), seed=SEED)
    graph["probe"] = node("ProbeLatent", latent=["sample", 0], path=str(path))
    host.run(graph)
    return torch.load(path)


def theirs(host, pipeline, embeds, names, grid):
    from standins.peers import sample

    noise = torch.randn(1, 128, *grid, generator=torch.Generator().manual_seed(SEED))
    photographs = [Image.open(host.base / "input" / name).convert("RGB") for name in names]
    return sample(pipeline, prompt_embeds=torch.load(embeds), noise=noise, images=photographs)


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("names", [[], ["image_1.png"], ["image_2.png", "image_1.png"]], ids=len)
def test_final_latents_agree(host, tmp_path, embeds, pipeline, names):
    latent = ours(host, tmp_path, embeds, names)
    assert relative_error(latent, theirs(host, pipeline, embeds, names, latent.shape[2:])) < TOLERANCE


def test_a_wrong_reference_order_would_be_seen(host, tmp_path, embeds, pipeline):
    names = ["image_1.png", "image_2.png"]
    latent = ours(host, tmp_path, embeds, names)
    assert relative_error(latent, theirs(host, pipeline, embeds, names[::-1], latent.shape[2:])) > 100 * TOLERANCE


def test_a_missing_reference_would_be_seen(host, tmp_path, embeds, pipeline):
    latent = ours(host, tmp_path, embeds, ["image_1.png", "image_2.png"])
    one = theirs(host, pipeline, embeds, ["image_1.png"], latent.shape[2:])
    assert relative_error(latent, one) > 100 * TOLERANCE
