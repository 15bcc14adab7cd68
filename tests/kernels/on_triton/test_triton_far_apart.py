"""Tokens so far apart that their places do not fit 32 bits, as in large batches. Whoever cuts them crashes here."""

import mmap

import pytest
import torch
from twins import DEVICE, HALF, agree, drawn

from klein9b.kernels.eager import gated_residual, heads_norm_rope, layer_norm_modulate, swiglu_concat, write_kv
from klein9b.kernels.eager.heads_norm_rope import RmsNorm
from klein9b.kernels.triton import gated_residual as gated_residual_twin
from klein9b.kernels.triton import heads_norm_rope as heads_norm_rope_twin
from klein9b.kernels.triton import layer_norm_modulate as layer_norm_modulate_twin
from klein9b.kernels.triton import swiglu_concat as swiglu_concat_twin
from klein9b.kernels.triton import write_kv as write_kv_twin

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="4 GiB that are hardly touched cost nothing on the CPU alone")

TOKENS, FEATURES, APART = 3, 16, 2**30


@pytest.fixture
def far():
    """Random (1, TOKENS, FEATURES), the tokens 2 GiB apart."""
    room = mmap.mmap(-1, 2 * ((TOKENS - 1) * APART + FEATURES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(room, dtype=HALF)
    view = whole.as_strided((1, TOKENS, FEATURES), (0, APART, 1))
    return view.copy_(drawn(1, TOKENS, FEATURES, dtype=HALF))


def test_layer_norm_modulate(far):
    given = far, far[:, :1], far[:, 1:2]
    agree(layer_norm_modulate_twin.layer_norm_modulate(*given), layer_norm_modulate.layer_norm_modulate(*given))


def test_gated_residual(far):
    y, gate = drawn(1, TOKENS, FEATURES, seed=1, dtype=HALF), far[:, :1].clone()
    wanted = gated_residual.gated_residual_(far.clone(), y, gate)
    agree(gated_residual_twin.gated_residual_(far, y, gate), wanted, equal=1.0)
    agree(gated_residual_twin.gated_residual_(y.clone(), far, gate), gated_residual.gated_residual_(y, far, gate))


def test_heads_norm_rope(far):
    freqs = torch.eye(2).expand(1, 1, TOKENS, 4, 2, 2).contiguous()
    given = far, [RmsNorm(drawn(8, dtype=HALF))], freqs, 2
    agree(heads_norm_rope_twin.heads_norm_rope(*given)[0], heads_norm_rope.heads_norm_rope(*given)[0])


def test_swiglu_concat(far):
    agree(swiglu_concat_twin.swiglu_concat(far, far), swiglu_concat.swiglu_concat(far, far))


def test_write_kv(far):
    appended = tuple(drawn(1, 1, TOKENS, FEATURES, seed=seed, dtype=HALF) for seed in (1, 2))
    other = torch.zeros(1, 1, TOKENS, FEATURES, dtype=HALF)
    write_kv_twin.write_kv_(far[:, None], other, appended)
    assert torch.equal(far[:, None], appended[0]) and torch.equal(other, appended[1])
    write_kv.write_kv_(far[:, None], other, appended[::-1])
    assert torch.equal(far[:, None], appended[1])
