"""One image meets the VAE once."""

import numpy as np
import torch

from klein9b.klein.latent_store import CAPACITY, LatentStore


def image(value, shape=(64, 64, 3)):
    return np.full(shape, value, np.float32)


class Encoder:
    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        return pixels.mean().reshape(1) + self.calls


def test_equal_pixels_are_encoded_once():
    store, encoder = LatentStore(), Encoder()
    first = store.encode(image(0.5), encoder)
    assert store.encode(image(0.5), encoder) is first
    assert encoder.calls == 1


def test_pixels_and_shape_are_the_key():
    store, encoder = LatentStore(), Encoder()
    for one in (image(0.5), image(0.25), image(0.5, (32, 128, 3)), image(0.5, (128, 32, 3))):
        store.encode(one, encoder)
    assert encoder.calls == 4


def test_the_least_recently_used_goes_first():
    store, encoder = LatentStore(), Encoder()
    for i in range(CAPACITY):
        store.encode(image(i), encoder)
    store.encode(image(0), encoder)
    store.encode(image(CAPACITY), encoder)
    assert encoder.calls == CAPACITY + 1
    store.encode(image(0), encoder)
    assert encoder.calls == CAPACITY + 1
    store.encode(image(1), encoder)
    assert encoder.calls == CAPACITY + 2


def test_a_strided_view_is_its_pixels():
    store, encoder = LatentStore(), Encoder()
    pixels = np.random.default_rng(0).random((64, 80, 3), dtype=np.float32)
    store.encode(pixels[:, 8:72], encoder)
    store.encode(pixels[:, 8:72].copy(), encoder)
    assert encoder.calls == 1
    assert isinstance(store.encode(pixels, encoder), torch.Tensor)


def test_what_is_not_to_be_kept_is_encoded_anew_each_time():
    store, encoder = LatentStore(), Encoder()
    for calls in (1, 2):
        assert isinstance(store.encode(image(0.5), encoder, keep=lambda latent: False), torch.Tensor)
        assert encoder.calls == calls
    kept = store.encode(image(0.5), encoder)
    assert store.encode(image(0.5), encoder, keep=lambda latent: False) is kept
