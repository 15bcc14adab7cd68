"""What an evaluation of Klein 9B at full size launches, and the bytes of its passes over activations."""

from dataclasses import replace

import pytest
import torch
from full_size import inputs_of, klein, latent, quantised_klein
from traffic import HostKernels, Traffic, attending, kernels, rotated

from host.quantising_ops import fp8_ops, int8_ops
from klein9b.klein.framing import Size
from klein9b.klein.vram import KLEIN_9B, Job

pytestmark = pytest.mark.usefixtures("comfy_host")
MEGAPIXEL = Size(1024, 1024)
GB = 1e9
BLOCK_LAYERS = 8 * KLEIN_9B.double_blocks + 2 * KLEIN_9B.single_blocks


def evaluated(references, accelerate, monkeypatch, format=None):
    """The second evaluation of a run: what a run needs once is not in it."""
    import comfy.quant_ops

    traffic, job = Traffic(), Job(MEGAPIXEL, (MEGAPIXEL,) * references)
    monkeypatch.setattr(comfy.quant_ops.ck, "apply_rope", rotated(traffic))
    model = quantised_klein(KLEIN_9B, format) if format else klein(KLEIN_9B)
    options = {"optimized_attention_override": attending(traffic)}
    options = accelerate(traffic, options)
    latents = [latent(1, size) for size in job.references] or None
    with torch.inference_mode():
        inputs = inputs_of(job)
        model(*inputs, ref_latents=latents, transformer_options=options)
        traffic.forget()
        with HostKernels(traffic), traffic:
            model(*inputs, ref_latents=latents, transformer_options=options)
    return traffic


def stock(traffic, options):
    return options


def accelerated(traffic, options):
    from klein9b.nodes.host.acceleration import Acceleration
    from klein9b.nodes.host.block_functions import eager_ops

    ops = kernels(traffic, replace(eager_ops(), int8=int8_ops(), fp8=fp8_ops()))
    ours = Acceleration(lambda like: ops, "test", lambda report: None)
    return options | {"wrappers": {"diffusion_model": {"klein9b_accelerate": [ours.diffusion_model]}}}


@pytest.mark.parametrize(("references", "gigabytes", "launches"), [(0, 55.7, 835), (2, 154.8, None)])
def test_stock_is_what_it_was_when_the_budgets_were_set(references, gigabytes, launches, monkeypatch):
    traffic = evaluated(references, stock, monkeypatch)
    assert traffic.bytes / GB == pytest.approx(gigabytes, rel=0.001)
    assert launches is None or traffic.launches == launches


@pytest.mark.parametrize("format", ["float8_e4m3fn", "int8_tensorwise"])
def test_stock_makes_its_layers_inputs_8_bits_wide_in_passes_of_their_own(format, monkeypatch):
    plain, quantised = (evaluated(0, stock, monkeypatch, one) for one in (None, format))
    assert quantised.launches == plain.launches + BLOCK_LAYERS
    assert quantised.bytes / GB == pytest.approx(65.2, rel=0.001)


@pytest.mark.parametrize(
    ("format", "references", "gigabytes", "launches"),
    [
        (None, 0, 26, 360),
        (None, 2, 72, None),
        ("float8_e4m3fn", 0, 22.5, 360),
        ("float8_e4m3fn", 2, 64, None),
        ("int8_tensorwise", 0, 22.5, 360),
        ("int8_tensorwise", 2, 64, None),
    ],
)
def test_accelerated(format, references, gigabytes, launches, monkeypatch):
    traffic = evaluated(references, accelerated, monkeypatch, format)
    assert traffic.bytes / GB <= gigabytes
    assert launches is None or traffic.launches <= launches
