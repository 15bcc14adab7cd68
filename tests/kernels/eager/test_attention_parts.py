"""Attention by parts against the dense formula in float64, whose every query and key has a bias of its own."""

import math
from itertools import pairwise
from unittest import mock

import pytest
import torch
from dense_parts import apart, dense
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import PeakMemory
from rounding import drawn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from klein9b.kernels.eager import attention_parts as op
from klein9b.kernels.eager.attention_parts import Attended, Part, attention_parts, merged

# float32: as promised; float64: sums in another order.
LIMIT = {torch.float64: 1e-13, torch.float32: 1e-5}
WEIGHTS = (0.0, 0.7, -2.5, 30.0, -math.inf)


def tokens(count, seed, batch=1, heads=2, head_dim=16, dtype=torch.float32):
    """As the blocks have them: in memory a token's heads lie side by side."""
    return drawn(batch, count, heads, head_dim, seed=seed, dtype=torch.float32).to(dtype).transpose(1, 2)


def qkv(queries=37, keys=53, **shape):
    return tokens(queries, 1, **shape), tokens(keys, 2, **shape), tokens(keys, 3, **shape)


def some(count, of, seed=0):
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count]


def several(queries=37):
    """Of 53 keys: text for all, a reference stronger, one whose pixels count in part, one that some may look at."""
    weights = drawn(queries, seed=9)
    weights[3] = -math.inf
    return [
        Part(slice(0, 11)),
        Part(slice(11, 20), log_weight=math.log(3)),
        Part(20 + some(9, of=17), log_weight=weights),
        Part(slice(40, 53), queries=some(13, of=queries), log_weight=drawn(13, seed=8)),
    ]


def check(given_, parts, limit):
    got = attention_parts(*given_, parts)
    output, lse = dense(*given_, parts)
    wide = torch.promote_types(given_[0].dtype, torch.float32)
    assert (got.output.dtype, got.lse.dtype) == (given_[0].dtype, wide)
    assert apart(got.output, output) <= limit
    assert torch.equal(got.lse.isinf(), lse.isinf())
    assert apart(got.lse.nan_to_num(neginf=0), lse.nan_to_num(neginf=0)) <= max(limit, LIMIT[wide])


@st.composite
def parts_of(draw, queries, keys):
    """Disjoint parts of the keys, of every kind, in any order; some keys are in none."""
    cuts = sorted(draw(st.lists(st.integers(0, keys), max_size=4)))
    parts = []
    for start, end in zip([0, *cuts], [*cuts, keys], strict=True):
        taken = slice(start, end)
        if start < end and draw(st.booleans()):
            taken = torch.tensor(draw(st.lists(st.integers(start, end - 1), unique=True)), dtype=torch.long)
        seers = draw(st.none() | st.lists(st.integers(0, queries - 1), unique=True))
        count = queries if seers is None else len(seers)
        weight = draw(st.sampled_from(WEIGHTS) | st.lists(st.sampled_from(WEIGHTS), min_size=count, max_size=count))
        parts.append(
            Part(
                taken,
                torch.tensor(weight) if isinstance(weight, list) else weight,
                None if seers is None else torch.tensor(seers, dtype=torch.long),
            )
        )
    return draw(st.permutations(parts))


@st.composite
def scenes(draw):
    queries, keys = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    shape = {"batch": draw(st.integers(1, 2)), "heads": draw(st.integers(1, 3)), "head_dim": draw(st.integers(1, 9))}
    given_ = qkv(queries, keys, dtype=draw(st.sampled_from(list(LIMIT))), **shape)
    return given_, draw(parts_of(queries, keys)), draw(st.sampled_from([1, 40, op.AT_ONCE]))


@settings(deadline=None, max_examples=300)
@given(scenes())
def test_any_parts_are_the_dense_formula(scene):
    given_, parts, at_once = scene
    with mock.patch.object(op, "AT_ONCE", at_once):
        check(given_, parts, LIMIT[given_[0].dtype])


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("shape", [{}, {"batch": 2, "heads": 3, "head_dim": 7}, {"heads": 1, "head_dim": 128}], ids=str)
def test_several_parts_are_the_dense_formula(dtype, shape):
    check(qkv(dtype=dtype, **shape), several(), LIMIT[dtype])


def test_many_keys_and_spans(monkeypatch):
    monkeypatch.setattr(op, "AT_ONCE", 2 * 16 * 100)
    parts = [Part(slice(0, 700)), Part(slice(700, 1500), 1.5), Part(slice(1500, 1600), drawn(331), some(331, of=1033))]
    check(qkv(1033, 1601), parts, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_near_as_one_attention_is(dtype):
    """Every part rounds its output and every merging rounds again: four parts are within twice the error of one."""
    given_ = qkv(129, 1024, head_dim=64, dtype=dtype)
    output, _ = dense(*given_, [Part(slice(None))])
    own = float((scaled_dot_product_attention(*given_).double() - output).norm())
    for cuts in ([0, 1024], [0, 100, 1024], [0, 100, 400, 800, 1024]):
        parts = [Part(slice(start, end)) for start, end in pairwise(cuts)]
        got = attention_parts(*given_, parts).output
        assert float((got.double() - output).norm()) <= (2 if len(parts) > 1 else 1) * own
    check(given_, several(129), 2 * torch.finfo(dtype).eps)


class TestWhatIsNotSeen:
    def test_keys_in_no_part_leave_every_bit(self):
        query, key, value = qkv()
        parts = [Part(slice(0, 20), 0.5), Part(torch.tensor([25, 31, 49]))]
        before = attention_parts(query, key, value, parts)
        for hidden in (slice(20, 25), [24, 30, 52]):
            key[:, :, hidden], value[:, :, hidden] = math.nan, 1e30
        after = attention_parts(query, key, value, parts)
        assert torch.equal(before.output, after.output) and torch.equal(before.lse, after.lse)

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("how", ["a number", "each query", "a query in two", "other queries"])
    def test_a_weight_of_nothing_leaves_every_bit(self, how, first):
        query, key, value = qkv()
        blind = torch.arange(37) % 2 == 0
        hidden = {
            "a number": Part(slice(20, 53), -math.inf),
            "each query": Part(slice(20, 53), torch.full((37,), -math.inf)),
            "a query in two": Part(slice(20, 53), torch.where(blind, -math.inf, 0.3)),
            "other queries": Part(slice(20, 53), 0.3, torch.where(~blind)[0]),
        }[how]
        blind = blind | (how in ("a number", "each query"))
        parts = [hidden, Part(slice(0, 20))] if first else [Part(slice(0, 20)), hidden]
        before = attention_parts(query, key, value, parts)
        key[:, :, 20:], value[:, :, 20:] = 3.0, -1e30
        after = attention_parts(query, key, value, parts)
        alone = attention_parts(query, key, value, [Part(slice(0, 20))])
        for got in (before, after):
            assert torch.equal(got.output[:, :, blind], alone.output[:, :, blind])
            assert torch.equal(got.lse[:, :, blind], alone.lse[:, :, blind])
        assert blind.all() or not torch.equal(before.output, after.output)

    @pytest.mark.parametrize(
        "parts",
        [
            [],
            [Part(slice(5, 5)), Part(torch.tensor([], dtype=torch.long))],
            [Part(slice(None), -math.inf)],
            [Part(slice(None), torch.full((37,), -math.inf))],
            [Part(slice(0, 9), torch.full((37,), -math.inf)), Part(slice(9, 53), torch.full((37,), -math.inf))],
            [Part(slice(None), 0.0, torch.tensor([], dtype=torch.long))],
        ],
        ids=["no part", "no keys", "a number", "each query", "each query twice", "no queries"],
    )
    def test_who_sees_nothing_gets_nothing(self, parts):
        got = attention_parts(*qkv(), parts)
        assert torch.equal(got.output, torch.zeros(1, 2, 37, 16))
        assert torch.equal(got.lse, torch.full((1, 2, 37), -math.inf))

    def test_some_queries_see_nothing(self):
        got = attention_parts(*qkv(), [Part(slice(0, 9), queries=torch.tensor([4, 2]))])
        unseen = [i for i in range(37) if i not in (2, 4)]
        assert not got.output[:, :, unseen].any() and got.output[:, :, [2, 4]].all()
        assert torch.equal(got.lse.isinf()[0, 0], torch.tensor([i in unseen for i in range(37)]))


class Recorded(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class TestCost:
    def test_one_part_is_one_attention_and_its_bits(self):
        given_ = qkv(dtype=torch.bfloat16)
        with Recorded() as recorded:
            got = attention_parts(*given_, [Part(slice(0, 53))])
        names = [name for name in recorded.names if not name.endswith(("::slice.Tensor", "::alias", "::detach"))]
        assert names == ["aten::_scaled_dot_product_flash_attention_for_cpu"], names
        assert torch.equal(got.output, scaled_dot_product_attention(*given_))

    def test_one_merging_less_than_parts(self):
        """In whatever order they come: what some queries see is merged into what all see."""
        with Recorded() as recorded:
            attention_parts(*qkv(), several()[::-1])
        assert recorded.names.count("aten::addcmul_") == 3

    @pytest.mark.parametrize("parts", [several(), several()[3:]], ids=["several", "of some queries"])
    def test_heads_side_by_side_stay_so(self, parts):
        """Then a token's heads are joined without a copy."""
        output = attention_parts(*qkv(), parts).output
        assert output.transpose(1, 2).flatten(2).data_ptr() == output.data_ptr()

    def test_memory_is_two_outputs_and_a_span(self, monkeypatch):
        monkeypatch.setattr(op, "AT_ONCE", 2**14)
        given_ = qkv(2048, 64, head_dim=64, dtype=torch.bfloat16)
        parts = [Part(slice(start, start + 16), 0.1) for start in range(0, 64, 16)]
        attention_parts(*given_, parts)
        with PeakMemory() as memory:
            attention_parts(*given_, parts)
        sums = 8 * 4 * given_[0].nbytes // (2 * 64)
        assert memory.peak <= 2 * given_[0].nbytes + 3 * 4 * 2**14 + sums

    def test_what_was_given_is_left_alone(self):
        given_, parts = qkv(), several()
        attention_parts(*given_, parts)
        assert all(map(torch.equal, given_, qkv()))
        for part, fresh in zip(parts, several(), strict=True):
            assert torch.equal(torch.as_tensor(part.log_weight), torch.as_tensor(fresh.log_weight))


class TestMerged:
    def halves(self):
        query, key, value = qkv()
        return [attention_parts(query, key, value, [part]) for part in (Part(slice(0, 30), 0.4), Part(slice(30, 53)))]

    def test_it_is_attention_over_both(self):
        output, lse = dense(*qkv(), [Part(slice(0, 30), 0.4), Part(slice(30, 53))])
        one, other = self.halves()
        for got in (merged(one, other), merged(other, one)):
            assert apart(got.output, output) <= 1e-5 and apart(got.lse, lse) <= 1e-5

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_is_rounded_once(self, dtype):
        query, key, value = qkv(dtype=dtype)
        one, other = (attention_parts(query, key, value, [Part(keys)]) for keys in (slice(0, 30), slice(30, 53)))
        share = (one.lse.double() - other.lse.double()).sigmoid()[..., None]
        wanted = share * one.output.double() + (1 - share) * other.output.double()
        got = merged(one, other).output.double()
        assert ((got - wanted).abs() <= torch.finfo(dtype).eps / 2 * wanted.abs() + 1e-6).all()

    def test_neither_is_changed(self):
        given_ = self.halves()
        merged(*given_)
        for one, fresh in zip(given_, self.halves(), strict=True):
            assert torch.equal(one.output, fresh.output) and torch.equal(one.lse, fresh.lse)

    def test_nothing_adds_nothing(self):
        one, _ = self.halves()
        nothing = Attended(torch.zeros_like(one.output), torch.full_like(one.lse, -math.inf))
        for got in (merged(one, nothing), merged(nothing, one)):
            assert torch.equal(got.output, one.output) and torch.equal(got.lse, one.lse)
        neither = merged(nothing, nothing)
        assert torch.equal(neither.output, nothing.output) and torch.equal(neither.lse, nothing.lse)


@pytest.mark.parametrize("weight", [math.inf, math.nan])
def test_a_weight_without_bound_is_named(weight):
    with pytest.raises(ValueError, match=f"log_weight must be below infinity, got {weight}"):
        attention_parts(*qkv(), [Part(slice(None), weight)])


@pytest.mark.parametrize("part", [Part(slice(None), torch.zeros(36)), Part(slice(None), torch.zeros(37), some(36, 37))])
def test_weights_of_other_queries_are_named(part):
    with pytest.raises(ValueError, match=r"one for each query, \[3[67]\], got \[3[67]\]"):
        attention_parts(*qkv(), [part])
