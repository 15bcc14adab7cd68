"""Groups of queries, each attending to its parts: which attention runs, and what comes out."""

import pytest
import torch
from dense_attention import attended, guided

from klein9b.kernels.eager.attention_parts import Part
from klein9b.klein.attention_plan import Group
from klein9b.klein.parts_run import attended_by_parts


def qkv(dtype=torch.float32, tokens=11):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(2, 3, tokens, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


class Plain:
    """The host's attention, that says what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, q, k, v):
        self.asked.append((q.shape[2], k.shape[2]))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def weights(*rows):
    """Of queries, as (count, {keys: weight}) each."""
    made = torch.zeros(sum(count for count, _ in rows), 11, dtype=torch.float64)
    start = 0
    for count, seen in rows:
        for (first, last), weight in seen.items():
            made[start : start + count, first:last] = weight
        start += count
    return made


def close(got, wanted, tolerance=1e-5):
    return float((got.double() - wanted).norm() / wanted.norm()) <= tolerance


def test_one_plain_part_is_the_hosts_own_attention_bit_for_bit():
    q, k, v = qkv()
    plain = Plain()
    groups = [Group((0, 4), (Part(slice(0, 11)),)), Group((4, 11), (Part(slice(2, 9)),))]
    got = attended_by_parts(groups, q, k, v, plain)
    assert plain.asked == [(4, 11), (7, 7)]
    assert torch.equal(got[:, :4], Plain()(q[:, :, :4], k, v))
    assert torch.equal(got[:, 4:], Plain()(q[:, :, 4:], k[:, :, 2:9], v[:, :, 2:9]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weighed_parts(dtype):
    q, k, v = qkv(dtype)
    log = torch.tensor(3.0).log().item()
    groups = [
        Group((0, 5), (Part(slice(0, 6)), Part(slice(6, 11), log))),
        Group((5, 11), (Part(slice(0, 6)), Part(torch.tensor([6, 9])))),
    ]
    plain = Plain()
    got = attended_by_parts(groups, q, k, v, plain)
    seen = weights((5, {(0, 6): 1, (6, 11): 3}), (6, {(0, 6): 1, (6, 7): 1, (9, 10): 1}))
    assert not plain.asked and got.dtype == dtype and got.shape == (2, 11, 24)
    assert close(got, attended(q, k, v, seen), 2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_weights_of_each_querys_own():
    q, k, v = qkv()
    some = torch.tensor([1, 3])
    groups = [Group((0, 11), (Part(slice(0, 6)), Part(slice(6, 11), torch.tensor([2.0, 0.5]).log(), some)))]
    seen = weights((11, {(0, 6): 1}))
    seen[1, 6:], seen[3, 6:] = 2.0, 0.5
    assert close(attended_by_parts(groups, q, k, v, Plain()), attended(q, k, v, seen))


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_a_second_attention_guides_away_from_itself(strength):
    q, k, v = qkv()
    group = Group((0, 11), (Part(slice(0, 3)), Part(slice(6, 11), 0.7)), (Part(slice(3, 6)),), 1)
    got = attended_by_parts([group], q, k, v, Plain(), strength)
    shared = {(6, 11): torch.tensor(0.7, dtype=torch.float64).exp()}
    one, other = (attended(q, k, v, weights((11, {own: 1} | shared))) for own in ((0, 3), (3, 6)))
    assert close(got, guided(one, other, strength))
    assert close(got, one) is (strength == 1.0)


def test_a_query_that_its_own_parts_leave_out_still_sees_the_others():
    q, k, v = qkv()
    group = Group((0, 11), (Part(slice(0, 3), 0.0, torch.arange(4)), Part(slice(6, 11))), (Part(slice(3, 6)),), 1)
    got = attended_by_parts([group], q, k, v, Plain(), 3.0)
    positive = attended(q, k, v, weights((4, {(0, 3): 1, (6, 11): 1}), (7, {(6, 11): 1})))
    negative = attended(q, k, v, weights((11, {(3, 11): 1})))
    assert close(got, guided(positive, negative, 3.0))


def test_queries_that_end_before_the_keys():
    """As where the references' keys come from elsewhere."""
    q, k, v = qkv()
    groups = [Group((0, 6), (Part(slice(0, 6)), Part(slice(6, 11), -1.0)))]
    got = attended_by_parts(groups, q[:, :, :6], k, v, Plain())
    seen = weights((6, {(0, 6): 1, (6, 11): torch.tensor(-1.0, dtype=torch.float64).exp()}))
    assert close(got, attended(q[:, :, :6], k, v, seen))
