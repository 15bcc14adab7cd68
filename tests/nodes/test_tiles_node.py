"""Klein 9B Tiles as a node: what it says, what its latent tells Klein 9B Scheduler, what it refuses."""

from __future__ import annotations

import pytest
import torch

from host.edits import klein_model
from klein9b.klein.schedule import klein_sigmas

pytestmark = pytest.mark.usefixtures("comfy_host")


@pytest.fixture(scope="module")
def model(comfy_host):
    return klein_model()


@pytest.fixture
def said(monkeypatch, comfy_host):
    from klein9b.nodes import tiles

    texts = []
    monkeypatch.setattr(tiles, "show_text", lambda node, text: texts.append(text))
    return texts


def latent(height, width, channels=128):
    return {"samples": torch.zeros(1, channels, height, width), "noise_mask": torch.ones(1)}


def tiles(model, given, tile_size=1024, overlap=128):
    from klein9b.nodes.tiles import Klein9BTiles

    return Klein9BTiles.execute(model, given, tile_size, overlap).result


def sigmas(given, **settings):
    from klein9b.nodes.scheduler import Klein9BScheduler

    chosen = {"steps": 4, "denoise": 1.0, "shift": {"shift": "flux2"}} | settings
    return Klein9BScheduler.execute(given, **chosen).result[0]


def test_it_says_how_many_tiles_of_what_size(model, said):
    tiles(model, latent(256, 256))
    assert said[-1].startswith("25 tiles of 928x928, 5 across and 5 down: every step evaluates the model 25 times")
    tiles(model, latent(64, 200))
    assert said[-1].startswith("4 tiles of 896x1024, 4 across and 1 down")


def test_a_picture_too_small_to_tile_is_painted_whole(model, said):
    _, out = tiles(model, latent(40, 64))
    assert said[-1] == "1 tile: the picture of 1024x640 is no larger, so it is painted whole, as without this node."
    assert torch.equal(sigmas(out), sigmas(latent(40, 64)))


@pytest.mark.parametrize("shift", ["flux2", "smooth"])
def test_the_schedule_is_made_for_one_tile(model, said, shift):
    """Above 4300 tokens FLUX.2's own shift falls; a picture of 65536 would have another schedule altogether."""
    _, out = tiles(model, latent(256, 256))
    got = sigmas(out, shift={"shift": shift})
    assert torch.equal(got, klein_sigmas(4, 58 * 58, shift=shift))
    assert not torch.equal(got, sigmas(latent(256, 256), shift={"shift": shift}))


def test_the_latent_goes_on_with_all_it_had_and_with_its_strength(model, said):
    from klein9b.nodes.host.latent_strength import with_strength

    given = with_strength(latent(256, 256), 0.5)
    _, out = tiles(model, given)
    assert out["samples"] is given["samples"] and out["noise_mask"] is given["noise_mask"]
    assert torch.equal(sigmas(out), klein_sigmas(4, 58 * 58, 0.5))


def test_a_latent_that_is_scaled_behind_it_is_tiled_anew(model, said):
    _, out = tiles(model, latent(256, 256))
    half = {**out, "samples": torch.zeros(1, 128, 128, 128)}
    assert torch.equal(sigmas(half), klein_sigmas(4, 48 * 48))


def test_another_models_latent(model, said):
    with pytest.raises(ValueError, match=r"This latent is \[1, 16, 8, 8\], but FLUX\.2 works on"):
        tiles(model, latent(8, 8, channels=16))


def test_an_overlap_of_more_than_half_a_tile(model, said):
    with pytest.raises(ValueError, match="overlap of the tiles is 640 pixels, but with tiles of at most 1024"):
        tiles(model, latent(256, 256), overlap=640)
