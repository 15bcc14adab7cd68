"""Triton's heads, normed and turned, against eager's."""

import pytest
import torch
from twins import DEVICE, DTYPES, HALF, agree, drawn, share

from klein9b.kernels.eager import heads_norm_rope as eager
from klein9b.kernels.eager.heads_norm_rope import RmsNorm
from klein9b.kernels.triton import heads_norm_rope as twin

# batch, tokens, heads, head_dim, batch rows of the table
SHAPES = [(1, 1, 1, 2, 1), (2, 5, 3, 6, 2), (2, 4, 32, 128, 1), (2, 0, 2, 8, 1)]


def table(rows, tokens, head_dim):
    angles = drawn(rows, 1, tokens, head_dim // 2, seed=5, scale=3.0)
    parts = (angles.cos(), -angles.sin(), angles.sin(), angles.cos())
    return torch.stack(parts, dim=-1).unflatten(-1, (2, 2))


def norm(head_dim, seed, dtype=HALF, eps=1e-6):
    return RmsNorm(1 + drawn(head_dim, seed=seed, dtype=dtype, scale=0.3), eps)


def case(which, batch, tokens, heads, head_dim, rows, dtype=HALF):
    """Packed projections with something behind them, such as a single block's MLP."""
    width = len(which) * heads * head_dim
    packed = drawn(batch, tokens + 2, width + 24, dtype=dtype)[:, 2:, :width]
    norms = [None if part == "v" else norm(head_dim, seed, dtype) for seed, part in enumerate(which)]
    return packed, norms, table(rows, tokens, head_dim), heads


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("which", ["qkv", "kv", "q"])
def test_it_is_eagers(dtype, shape, which):
    given = case(which, *shape, dtype)
    for got, wanted in zip(twin.heads_norm_rope(*given), eager.heads_norm_rope(*given), strict=True):
        agree(got, wanted, equal=0.999 if dtype == HALF else 0.5)
    for got, wanted in zip(twin.heads_norm_rope(*given, exact=False), eager.heads_norm_rope(*given), strict=True):
        agree(got, wanted, roundings=4)


def test_without_mirrored_roundings_it_is_nearer_to_the_truth():
    packed, norms, freqs, heads = case("q", 1, 8, 4, 64, 1)
    (true,) = eager.heads_norm_rope(packed.double(), [RmsNorm(norms[0].weight.double(), 1e-6)], freqs.double(), heads)
    exact, fast = (twin.heads_norm_rope(packed, norms, freqs, heads, exact=exact)[0] for exact in (True, False))
    assert share(exact, fast) < 0.9
    assert (fast - true).abs().mean() < 0.9 * (exact - true).abs().mean()


def test_values_are_a_view_and_queries_and_keys_are_not():
    packed, *given = case("qkv", 1, 3, 2, 8, 1)
    q, k, v = (part.untyped_storage().data_ptr() for part in twin.heads_norm_rope(packed, *given))
    assert v == packed.untyped_storage().data_ptr() and q != v and k != v


@pytest.mark.parametrize("given_out", ["qkv", "kv", "v", ""])
def test_it_is_written_where_it_is_wanted_and_nowhere_else(given_out):
    batch, tokens, heads, head_dim = 2, 5, 3, 8
    given = case("qkv", batch, tokens, heads, head_dim, 1)
    made = []
    for op in (eager.heads_norm_rope, twin.heads_norm_rope):
        shape = (batch, tokens + 6, heads, head_dim + 3)
        rooms = {part: torch.full(shape, float("nan"), dtype=HALF, device=DEVICE) for part in given_out}
        out = [rooms[part][:, 4:-2, :, 1:-2].transpose(1, 2) if part in rooms else None for part in "qkv"]
        parts = op(*given, out=out)
        assert all(target is None or part is target for part, target in zip(parts, out, strict=True))
        made.append((*parts, *rooms.values()))
    for wanted, got in zip(*made, strict=True):
        agree(got.nan_to_num(7.0), wanted.nan_to_num(7.0), equal=0.99)
        assert torch.equal(got.isnan(), wanted.isnan())


@pytest.mark.parametrize("eps", [None, 1e-6, 0.3])
def test_epsilon_is_added_to_the_mean_square(eps):
    packed, _, freqs, heads = case("q", 1, 3, 2, 8, 1)
    given = packed * 1e-3, [norm(8, 0, eps=eps)], freqs, heads
    agree(twin.heads_norm_rope(*given)[0], eager.heads_norm_rope(*given)[0], equal=0.95)
    if eps != 0.3:
        assert share(*(twin.heads_norm_rope(given[0], [norm(8, 0, eps=e)], freqs, heads)[0] for e in (eps, 0.3))) < 0.1


def test_weights_of_another_dtype_are_not_rounded():
    packed, _, freqs, heads = case("q", 1, 3, 2, 8, 1)
    given = packed, [norm(8, 0, torch.float32)], freqs, heads
    agree(twin.heads_norm_rope(*given)[0], eager.heads_norm_rope(*given)[0], equal=0.95)


def test_what_does_not_fit_is_named():
    packed, norms, freqs, heads = case("qkv", 2, 3, 2, 6, 1)
    with pytest.raises(ValueError, match="heads_norm_rope: 36 features do not divide into 3 parts of 5 heads"):
        twin.heads_norm_rope(packed, norms, freqs, 5)
    with pytest.raises(ValueError, match="heads_norm_rope: freqs has 1 tokens, packed has 3"):
        twin.heads_norm_rope(packed, norms, freqs[:, :, :1], heads)
    with pytest.raises(ValueError, match=r"rope: freqs must be \[2, 1, 3, 3, 2, 2\] or"):
        twin.heads_norm_rope(packed, norms, freqs[:, :, :, :2], heads)
    with pytest.raises(ValueError, match="rope: heads must be of pairs of features, got a head_dim of 9"):
        twin.heads_norm_rope(packed, [None] * 2, freqs, heads)
    with pytest.raises(ValueError, match="heads_norm_rope: Triton's kernel takes up to 3 parts, got 6"):
        twin.heads_norm_rope(packed, norms * 2, freqs[:, :, :, :1], 3)
    with pytest.raises(ValueError, match=r"heads_norm_rope: freqs must be float32 with contiguous matrices, got torch"):
        twin.heads_norm_rope(packed, norms, freqs.mT, heads)
    room = torch.zeros(2, 2, 4, 6, dtype=HALF, device=DEVICE)
    with pytest.raises(ValueError, match=r"heads_norm_rope: out\[1\] must be \[2, 2, 3, 6\], got \[2, 2, 4, 6\]"):
        twin.heads_norm_rope(packed, norms, freqs, heads, out=[None, room, None])
