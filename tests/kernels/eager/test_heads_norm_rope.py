"""Heads with norm and rotation against numpy in float64, one head and token at a time."""

import numpy as np
import pytest
import torch
from rounding import DTYPES, drawn, roundings
from test_rope import angles, table

from klein9b.kernels.eager.heads_norm_rope import RmsNorm, heads_norm_rope

HEAD_DIM = 6


def packed_and_table(batch, tokens, parts, heads, dtype=torch.float32, rows=1):
    packed = drawn(batch, tokens, parts * heads * HEAD_DIM, dtype=dtype)
    return packed, table(angles((batch, heads, tokens, HEAD_DIM), rows=rows))


def norm(seed, dtype=torch.float32, eps=1e-6):
    return RmsNorm(1 + drawn(HEAD_DIM, seed=seed, dtype=dtype, scale=0.3), eps)


def by_formula(packed, norms, freqs, heads):
    packed, freqs = packed.double().numpy(), freqs.double().numpy()
    batch, tokens, features = packed.shape
    width = features // len(norms)
    wanted = np.zeros((len(norms), batch, heads, tokens, HEAD_DIM))
    for part, b, h, t in np.ndindex(wanted.shape[:4]):
        start = part * width + h * HEAD_DIM
        x = packed[b, t, start : start + HEAD_DIM]
        if norms[part] is not None:
            x = x / np.sqrt((x**2).mean() + norms[part].eps) * norms[part].weight.double().numpy()
            pairs = zip(freqs[b % freqs.shape[0], 0, t], x.reshape(-1, 2), strict=True)
            x = np.concatenate([matrix @ pair for matrix, pair in pairs])
        wanted[part, b, h, t] = x
    return wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "tokens", "heads", "rows"), [(1, 1, 1, 1), (1, 7, 2, 1), (2, 5, 3, 1), (2, 5, 3, 2)])
@pytest.mark.parametrize("which", ["qkv", "kv", "q"])
def test_it_is_the_formula(dtype, batch, tokens, heads, rows, which):
    norms = [None if part == "v" else norm(seed, dtype) for seed, part in enumerate(which)]
    packed, freqs = packed_and_table(batch, tokens, len(norms), heads, dtype, rows)
    got = heads_norm_rope(packed, norms, freqs, heads)
    assert all(part.dtype == dtype for part in got)
    for part, wanted in zip(got, by_formula(packed, norms, freqs, heads), strict=True):
        assert roundings(part, wanted) < 8


def test_epsilon_is_added_to_the_mean_square():
    packed, freqs = packed_and_table(1, 3, 1, 2)
    for norms in ([norm(0, eps=0.3)], [norm(0, eps=1e-6)]):
        (got,) = heads_norm_rope(packed * 1e-2, norms, freqs, 2)
        assert roundings(got, by_formula(packed * 1e-2, norms, freqs, 2)[0]) < 8


def test_no_epsilon_is_that_of_float32():
    packed, freqs = packed_and_table(1, 3, 1, 2)
    packed = packed * 1e-4
    (got,) = heads_norm_rope(packed, [norm(0, eps=None)], freqs, 2)
    assert roundings(got, by_formula(packed, [norm(0, eps=torch.finfo(torch.float32).eps)], freqs, 2)[0]) < 8


def test_values_are_a_view_and_queries_and_keys_are_not():
    packed, freqs = packed_and_table(1, 3, 3, 2)
    q, k, v = (
        part.untyped_storage().data_ptr() for part in heads_norm_rope(packed, [norm(0), norm(1), None], freqs, 2)
    )
    assert v == packed.untyped_storage().data_ptr() and q != v and k != v


def test_a_part_of_a_wider_projection_is_as_good():
    packed, freqs = packed_and_table(2, 3, 3, 2)
    wider = torch.cat((packed, drawn(2, 3, 11, seed=8)), dim=2)
    norms = [norm(0), norm(1), None]
    got = heads_norm_rope(wider[..., : packed.shape[2]], norms, freqs, 2)
    assert all(map(torch.equal, got, heads_norm_rope(packed, norms, freqs, 2)))


def test_another_rotation_gets_the_normed_heads_and_the_table():
    packed, freqs = packed_and_table(1, 3, 2, 2)
    asked = []

    def rotation(x, table):
        asked.append((tuple(x.shape), table))
        return x

    heads_norm_rope(packed, [norm(0), None], freqs, 2, rotation=rotation)
    assert [shape for shape, _ in asked] == [(1, 2, 3, HEAD_DIM)] and asked[0][1] is freqs


def test_features_that_do_not_divide_are_named():
    packed, freqs = packed_and_table(1, 3, 3, 2)
    with pytest.raises(ValueError, match="heads_norm_rope: 36 features do not divide into 3 parts of 5 heads"):
        heads_norm_rope(packed, [norm(0), norm(1), None], freqs, 5)


def test_a_table_of_other_tokens_is_named():
    packed, freqs = packed_and_table(1, 3, 3, 2)
    with pytest.raises(ValueError, match="heads_norm_rope: freqs has 1 tokens, packed has 3"):
        heads_norm_rope(packed, [norm(0), norm(1), None], freqs[:, :, :1], 2)
