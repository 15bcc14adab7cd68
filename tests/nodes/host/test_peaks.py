"""klein/vram.py beside what the host's own forward, our cached path and the host's VAE hold at once.

The model is Klein 9B at full size on the meta device; see tests/full_size.py.
"""

import dataclasses

import pytest
import torch
from full_size import accelerated, cached_step, counted, empty, klein, latent, reference_pass, stock, vae

import standins
from klein9b.klein.framing import Size, output_size
from klein9b.klein.kv_store import Storage
from klein9b.klein.tiles import Tiling, pixels
from klein9b.klein.vram import (
    KLEIN_9B,
    Dims,
    Job,
    activation_bytes,
    cache_bytes,
    cached_forward_bytes,
    forward_bytes,
    reference_pass_bytes,
    vae_decode_bytes,
    vae_encode_bytes,
)

NEAR = 0.10
SIZES = {"512": Size(512, 512), "1 MP": Size(1024, 1024), "2 MP": output_size("16:9", 2)}
MEGAPIXEL = Size(1024, 1024)
SMALL = Dims(hidden=256, double_blocks=2, single_blocks=2)


def jobs(*, cache=None, least=0):
    pictures = [(size, count) for size in SIZES.values() for count in range(least, 5)]
    every = [Job(size, (MEGAPIXEL,) * count, cache=cache) for size, count in pictures]
    guided = [dataclasses.replace(job, guided=True) for job in every if len(job.references) in (least, 2)]
    batch = dataclasses.replace(every[0], batch=3)
    return [*every, *guided, batch]


def name_of(job):
    kind = "guided" if job.guided else f"batch {job.batch}"
    return f"{job.size}, {len(job.references)} references, {kind}"


@pytest.mark.parametrize("job", jobs(), ids=name_of)
def test_the_stock_forward(job):
    assert forward_bytes(KLEIN_9B, job) == pytest.approx(stock(job), rel=NEAR)
    assert activation_bytes(KLEIN_9B, job) == forward_bytes(KLEIN_9B, job)


@pytest.mark.parametrize("references", [0, 1, 3])
def test_a_tile_of_4096_pixels_square(references):
    """What of Klein 9B Tiles is on a card at once: one tile, its part of image 1, and the others whole."""
    tile = pixels(Tiling(64, 8).tiles(256, 256).size)
    job = Job(tile, (tile, MEGAPIXEL, MEGAPIXEL)[:references])
    assert forward_bytes(KLEIN_9B, job) == pytest.approx(stock(job), rel=NEAR)
    whole = Job(Size(4096, 4096), (Size(4096, 4096),) * references)
    assert stock(job) < forward_bytes(KLEIN_9B, whole) / 7


@pytest.mark.parametrize(("count", "share"), [(0, 0.93), (1, 0.67), (2, 0.54), (4, 0.54)])
def test_an_accelerated_step_takes_less(count, share):
    """Without references the first layer's whole output and the activation made of it live at once."""
    job = Job(MEGAPIXEL, (MEGAPIXEL,) * count)
    assert accelerated(job) <= share * stock(job)


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("job", jobs(cache=Storage.MODEL, least=1), ids=name_of)
def test_a_step_with_cached_references(job, storage):
    job = dataclasses.replace(job, cache=storage)
    assert cached_forward_bytes(KLEIN_9B, job) == pytest.approx(cached_step(job), rel=NEAR)


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("count", [1, 4])
def test_the_reference_pass(count, storage):
    job = Job(MEGAPIXEL, (MEGAPIXEL,) * count, cache=storage)
    assert reference_pass_bytes(KLEIN_9B, job) == pytest.approx(reference_pass(job), rel=NEAR)


@pytest.mark.parametrize("storage", Storage)
def test_what_the_cache_keeps(storage):
    job = Job(MEGAPIXEL, (MEGAPIXEL, Size(512, 768)), cache=storage)
    pair = tuple(empty(1, 32, job.reference_tokens, 128) for _ in range(2))
    assert cache_bytes(KLEIN_9B, job) == 32 * sum(one.nbytes for one in storage.pack(pair))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_vae(size):
    pixels = empty(1, 3, size.height, size.width)
    assert vae_encode_bytes(size) == pytest.approx(counted(vae(128).encode, pixels), rel=NEAR)
    for width in (128, 96):
        measured = counted(vae(width).decode, latent(1, size))
        assert vae_decode_bytes(size, decoder=width) == pytest.approx(measured, rel=NEAR)


@pytest.mark.parametrize(("size", "count"), [(Size(256, 256), 0), (Size(256, 256), 2), (Size(512, 512), 1)])
def test_a_small_model_really_run(comfy_host, size, count):
    """Where a processor takes norms and rotations apart in float32, what a card does is put in their place."""
    job = Job(size, (Size(256, 256),) * count)
    on_meta = stock(job, SMALL)
    assert forward_bytes(SMALL, job) == pytest.approx(on_meta, rel=0.25), "small streams weigh more in a small model"
    assert on_meta <= stock(job, SMALL, "cpu") <= 1.5 * on_meta


@pytest.mark.parametrize("job", [Job(Size(512, 512)), Job(MEGAPIXEL, (MEGAPIXEL,) * 2)], ids=name_of)
def test_a_card_agrees(job):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card: its allocator's peak is compared")
    shallow = Dims(double_blocks=1, single_blocks=2)
    model = klein(shallow, "cuda")
    references = [latent(job.rows, size, "cuda") for size in job.references]
    inputs = latent(job.rows, job.size, "cuda"), torch.zeros(job.rows, device="cuda")
    context = empty(job.rows, job.text_tokens, shallow.context, device="cuda")
    with torch.inference_mode():
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            model(*inputs, context, ref_latents=references or None)
    assert forward_bytes(shallow, job) == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=NEAR)


class TestWhatWouldBeWrong:
    """The comparisons above fail on it."""

    JOB = Job(MEGAPIXEL, (MEGAPIXEL,) * 2)

    def off(self, job, dims=KLEIN_9B):
        return forward_bytes(dims, job) != pytest.approx(stock(self.JOB), rel=NEAR)

    def test_a_reference_too_few(self):
        assert self.off(dataclasses.replace(self.JOB, references=(MEGAPIXEL,)))

    def test_one_row_where_two_are_evaluated(self):
        assert self.off(dataclasses.replace(self.JOB, guided=True))

    def test_another_width(self):
        assert self.off(self.JOB, dataclasses.replace(KLEIN_9B, hidden=3072))

    def test_the_stock_path_for_the_cached_one(self):
        cached = dataclasses.replace(self.JOB, cache=Storage.MODEL)
        assert forward_bytes(KLEIN_9B, cached) != pytest.approx(cached_step(cached), rel=NEAR)


def test_the_standins_are_what_small_says():
    weights = standins.transformer()
    assert weights["img_in.weight"].shape[0] == SMALL.hidden
    assert f"single_blocks.{SMALL.single_blocks - 1}.linear1.weight" in weights
