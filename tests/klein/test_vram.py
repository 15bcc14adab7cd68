"""The memory plan's arithmetic; tests/nodes/host/test_peaks.py holds it to what the host's own forward takes."""

import dataclasses

import pytest

from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.vram import KLEIN_9B, Job, activation_bytes, cache_bytes, forward_bytes, reference_pass_bytes, tokens

MEGAPIXEL = Size(1024, 1024)
GB = 1e9


def job(references=0, **changes):
    return Job(MEGAPIXEL, (MEGAPIXEL,) * references, **changes)


@pytest.mark.parametrize(("size", "count"), [(MEGAPIXEL, 4096), (Size(512, 512), 1024), (Size(1368, 768), 86 * 48)])
def test_a_token_is_16_by_16_pixels(size, count):
    assert tokens(size) == count


def test_a_megapixel_of_reference_keeps_two_gib():
    assert cache_bytes(KLEIN_9B, job(1, cache=Storage.MODEL)) == 2 * 2**30


@pytest.mark.parametrize(("storage", "ratio"), [(Storage.INT8, 0.52), (Storage.INT4, 0.31)])
def test_rounded_storage_is_smaller(storage, ratio):
    whole, rounded = (cache_bytes(KLEIN_9B, job(2, cache=one)) for one in (Storage.MODEL, storage))
    assert rounded / whole == pytest.approx(ratio, abs=0.02)


def test_nothing_is_cached_without_references_or_without_the_cache():
    assert cache_bytes(KLEIN_9B, job(cache=Storage.MODEL)) == cache_bytes(KLEIN_9B, job(3)) == 0


def test_the_batch_and_guidance_multiply():
    one = forward_bytes(KLEIN_9B, job(2))
    assert forward_bytes(KLEIN_9B, job(2, batch=3)) == 3 * one
    assert forward_bytes(KLEIN_9B, job(2, guided=True)) == 2 * one


def test_the_cached_path_takes_the_larger_of_its_two_peaks():
    few, many = job(1, cache=Storage.MODEL), job(8, cache=Storage.MODEL)
    assert activation_bytes(KLEIN_9B, many) == reference_pass_bytes(KLEIN_9B, many)
    guided = dataclasses.replace(few, guided=True)
    assert activation_bytes(KLEIN_9B, guided) > reference_pass_bytes(KLEIN_9B, guided)


def test_a_picture_alone_takes_two_thirds_of_a_gigabyte():
    assert activation_bytes(KLEIN_9B, job()) == pytest.approx(0.65 * GB, rel=0.02)
