"""References through the host's VAE: whole, in tiles of ours, in the host's tiles after it ran out, or not at all."""

import logging
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import standins
from host.edits import relative

OOM = torch.cuda.OutOfMemoryError


@pytest.fixture(scope="module")
def vae(comfy_host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.vae())


@pytest.fixture
def encode(vae, monkeypatch):
    """Encodes with an empty store; of the VAE, what was called."""
    from klein9b.nodes.host.vae_encode import STORE, encode_pictures

    monkeypatch.setitem(vae.patcher.attachments, STORE, None)

    def run(*pictures):
        labelled = ((f"image_{i}", picture) for i, picture in enumerate(pictures, 1))
        return encode_pictures(vae, labelled)

    with torch.inference_mode():  # as the host runs nodes
        yield run


def photo(name="astronaut"):
    """(64, 320, 3), which is wider than the narrowest of the host's tiles."""
    return np.asarray(standins.photograph(name, longest_side=320), np.float32)[80:144] / 255


def whole(vae, picture):
    return vae.encode(torch.from_numpy(picture)[None])


def in_tiles(vae, picture):
    return vae.encode_tiled(torch.from_numpy(picture)[None])


def device_of(monkeypatch, gib):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device: int(gib * 2**30))
    monkeypatch.setattr(comfy.model_management, "EXTRA_RESERVED_VRAM", 2**28)


def running_out(monkeypatch, vae, times):
    """The encoder runs out of memory so many times."""
    forward, left = vae.first_stage_model.encode, [None] * times

    def failing(*args, **kwargs):
        if left:
            left.pop()
            raise OOM("out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(vae.first_stage_model, "encode", failing)


def test_where_there_is_room_it_is_whole_and_silent(vae, encode, caplog):
    latents, told = encode(photo())
    assert torch.equal(latents[0], whole(vae, photo())) and not told and not caplog.records
    assert relative(latents[0], in_tiles(vae, photo())) > 1e-2, "tiles are another latent"


def test_what_the_device_could_never_hold_is_in_tiles_at_once(vae, encode, monkeypatch, caplog):
    device_of(monkeypatch, 0.40)  # 0.25 GiB of it reserved, and 0.14 GiB for the VAE
    monkeypatch.setattr(vae, "encode", lambda pixels: pytest.fail("the whole was tried"))
    latents, told = encode(photo("coffee"), photo())
    assert torch.equal(latents[1], in_tiles(vae, photo()))
    assert told == [f"image_{i} was encoded in tiles: 0.0 GiB needed, 0.0 GiB there" for i in (1, 2)]
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        f"Klein 9B: {sentence}." for sentence in told
    ]


def test_the_numbers_are_the_pictures_and_the_devices(vae, encode, monkeypatch):
    device_of(monkeypatch, 4)
    monkeypatch.setattr(vae, "encode_tiled", lambda pixels: torch.zeros(1, 128, 1, 1))
    _, told = encode(np.zeros((2016, 2016, 3), np.float32))
    assert told == ["image_1 was encoded in tiles: 5.8 GiB needed, 3.6 GiB there"]


@pytest.mark.parametrize("nobody_knows", ["DirectML", "Apple"])
def test_where_nobody_knows_the_memory_nothing_is_in_tiles_at_once(vae, encode, monkeypatch, nobody_knows):
    import comfy.model_management

    device_of(monkeypatch, 0.40)
    monkeypatch.setattr(vae, "encode", lambda pixels: torch.zeros(1, 128, 4, 20))
    monkeypatch.setattr(vae, "encode_tiled", lambda pixels: pytest.fail("the whole was not tried"))
    if nobody_knows == "DirectML":
        monkeypatch.setattr(comfy.model_management, "is_directml_enabled", lambda: True)
    else:
        monkeypatch.setattr(vae, "device", torch.device("mps"))
    assert encode(photo())[1] == []


def test_where_nobody_knows_the_memory_the_hosts_own_tiles_are_said_without_it(vae, encode, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "is_directml_enabled", lambda: True)
    running_out(monkeypatch, vae, times=1)
    assert encode(photo())[1] == ["image_1 was encoded in tiles: 0.1 GiB needed, not so much there"]


def test_when_the_host_runs_out_and_tiles_by_itself_it_is_said(vae, encode, monkeypatch):
    wanted = in_tiles(vae, photo())
    running_out(monkeypatch, vae, times=1)
    monkeypatch.setattr(type(vae.patcher), "get_free_memory", lambda self, device: 3 * 2**28)
    latents, told = encode(photo(), photo("coffee"))
    assert torch.equal(latents[0], wanted)
    assert told == ["image_1 was encoded in tiles: 0.1 GiB needed, 0.8 GiB there"]
    assert "encode_tiled_" not in vars(vae), "the VAE itself is as it was"
    assert torch.equal(latents[1], whole(vae, photo("coffee")))


def test_what_could_never_fit_is_kept_and_said_again_when_it_is_found(vae, encode, monkeypatch):
    device_of(monkeypatch, 0.40)
    first, told = encode(photo())
    again, told_again = encode(photo())
    assert again[0] is first[0] and told_again == told != []


def test_what_the_host_tiled_by_chance_is_whole_the_next_time(vae, encode, monkeypatch):
    running_out(monkeypatch, vae, times=1)
    (tiled,), told = encode(photo())
    (latent,), silent = encode(photo())
    assert told and not silent and torch.equal(latent, whole(vae, photo()))
    assert not torch.equal(latent, tiled) and encode(photo())[0][0] is latent


def test_on_another_device_the_whole_is_not_taken_for_the_tiles(vae, encode, monkeypatch):
    with monkeypatch.context() as small:
        device_of(small, 0.40)
        (tiled,), told = encode(photo())
    monkeypatch.setattr(vae, "device", torch.device("cpu", 0))
    (latent,), silent = encode(photo())
    assert told and not silent and not torch.equal(latent, tiled)


@pytest.mark.parametrize("gib", [100, 0.4])
def test_not_even_in_tiles_is_one_sentence(vae, encode, monkeypatch, gib):
    from klein9b.nodes.host.vae_encode import NotEvenInTiles

    device_of(monkeypatch, gib)
    encode(photo("coffee"))
    running_out(monkeypatch, vae, times=100)
    sentence = (
        r"^image_2: There is not enough memory to encode its 320x64 pixels, not even in tiles\. Close .*--cpu-vae"
    )
    with pytest.raises(NotEvenInTiles, match=sentence):
        encode(photo("coffee"), photo())


def test_any_other_error_passes_as_it_is(vae, encode, monkeypatch):
    monkeypatch.setattr(vae, "encode_tiled_", None)

    def broken(*args):
        raise KeyError("a bug")

    monkeypatch.setattr(vae.first_stage_model, "encode", broken)
    with pytest.raises(KeyError, match="a bug"):
        encode(photo())


class Live(TorchDispatchMode):
    """Bytes of tensors alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.sizes, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage):
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.peak = max(self.peak, sum(self.sizes.values()))
            weakref.finalize(storage, self.sizes.pop, storage._cdata)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_a_pixel_needs_is_what_the_hosts_encoder_has_alive(comfy_host, dtype):
    """On the meta device, whose kernels have no workspace. The host's estimate is 4.6 times that."""
    import comfy.sd

    from klein9b.nodes.host.vae_encode import ACTIVATIONS_PER_PIXEL

    vae = comfy.sd.VAE(sd=standins.vae())
    encoder = vae.first_stage_model.to("meta", dtype)
    for part in encoder.modules():
        if type(part).__name__ == "AttnBlock":
            part.optimized_attention = lambda q, k, v: torch.empty_like(q)
    with torch.inference_mode(), Live() as live:
        encoder.encode(torch.empty(1, 3, 512, 768, device="meta", dtype=dtype))
    needed = ACTIVATIONS_PER_PIXEL * 512 * 768 * dtype.itemsize
    assert 0.9 < live.peak / needed < 1.05
    assert vae.memory_used_encode((1, 3, 512, 768), dtype) / live.peak == pytest.approx(4.6, abs=0.1)
