"""The two blocks in plain torch, against the formulas in float64 and against what a caller may rely on."""

from dataclasses import replace

import pytest
import torch
from klein_by_hand import ByHand, turns

from klein9b.klein.transformer import (
    EVERY_TOKEN,
    FP16_LIMIT,
    Span,
    Stream,
    double_block,
    finite_,
    single_block,
    single_block_keys_values,
)
from standins.plain_klein import AXES, FUNCTIONS, HEAD_DIM, HEADS, HIDDEN, Pair, drawn, klein, weights_of

WEIGHTS = weights_of()
BY_HAND = ByHand(WEIGHTS)
TEXT, IMAGE, REFERENCES = 5, 9, 7
TIME = drawn(1, HIDDEN, seed=3)
# Of the largest number. Measured 4e-7, 1e-2 and 1e-3: half precision rounds the weights and a dozen results.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}

dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
batches = pytest.mark.parametrize("batch", [1, 2])
in_spans = pytest.mark.parametrize("mlp_rows", [None, 1, 4, 100], ids=lambda rows: f"{rows or 'all'} rows at a time")
SPANS = {"all tokens": EVERY_TOKEN, "the picture's tokens": Span(TEXT), "without the last": Span(0, TEXT + IMAGE - 3)}
SPANS["some of the picture's"] = Span(TEXT, TEXT + IMAGE - 3)
with_and_without = pytest.mark.parametrize("rows", [0, 1, 2], ids=["no reference", "one for all rows", "one a row"])


def error(got, wanted):
    assert got.shape == wanted.shape
    return float((got.double() - wanted).abs().max() / wanted.abs().max())


def ids(tokens, batch=1):
    return torch.arange(batch * tokens * AXES).reshape(batch, tokens, AXES).float() % 13


def reference(rows, dtype=torch.float32):
    return tuple(drawn(rows, HEADS, REFERENCES, HEAD_DIM, seed=seed, dtype=dtype) for seed in (5, 6)) if rows else None


def widened(pair):
    return None if pair is None else tuple(t.double() for t in pair)


class Doubles:
    """Both streams through one double block of ours."""

    def __init__(self, dtype=torch.float32, batch=1, rows=0, names=("txt", "img"), functions=FUNCTIONS):
        model = klein(WEIGHTS, dtype)
        self.block = model.double_blocks[1]
        self.before = {n: drawn(batch, t, HIDDEN, seed=t, dtype=dtype) for n, t in (("txt", TEXT), ("img", IMAGE))}
        vec = TIME.to(dtype)
        self.modulations = {n: getattr(model, f"double_stream_modulation_{n}")(vec) for n in names}
        self.streams = [Stream(n, self.before[n].clone(), self.modulations[n]) for n in names]
        self.ids = ids(sum(s.x.shape[1] for s in self.streams), batch)
        self.reference = reference(rows, dtype)
        pe = model.pe_embedder(self.ids)
        kept = []
        more = self.reference and Pair(*self.reference)
        double_block(self.block, self.streams, pe, functions, reference=more, keep=kept.append)
        ((self.key, self.value),) = kept

    def by_hand(self):
        def modulations(name):
            return (BY_HAND.modulation(f"double_stream_modulation_{name}", TIME.double(), row) for row in range(2))

        streams = {s.name: (self.before[s.name].double(), *modulations(s.name)) for s in self.streams}
        return BY_HAND.double(1, streams, turns(self.ids), widened(self.reference))


class Singles:
    """All tokens through one single block of ours."""

    def __init__(self, dtype=torch.float32, batch=1, rows=0, computed=EVERY_TOKEN, functions=FUNCTIONS):
        model = klein(WEIGHTS, dtype)
        self.block = model.single_blocks[1]
        self.before = drawn(batch, TEXT + IMAGE, HIDDEN, seed=4, dtype=dtype)
        self.x = self.before.clone()
        self.modulation, _ = model.single_stream_modulation(TIME.to(dtype))
        self.ids, self.reference = ids(TEXT + IMAGE, batch), reference(rows, dtype)
        self.pe = model.pe_embedder(self.ids)
        kept = []
        more = self.reference and Pair(*self.reference)
        asked = {"reference": more, "keep": kept.append, "computed": computed}
        single_block(self.block, self.x, self.modulation, self.pe, functions, **asked)
        ((self.key, self.value),) = kept

    def by_hand(self):
        modulation = BY_HAND.modulation("single_stream_modulation", TIME.double(), 0)
        return BY_HAND.single(1, self.before.double(), modulation, turns(self.ids), widened(self.reference))


@dtypes
@batches
@with_and_without
@in_spans
def test_a_double_block_is_the_formula(dtype, batch, rows, mlp_rows):
    got = Doubles(dtype, batch, min(rows, batch), functions=replace(FUNCTIONS, mlp_rows=mlp_rows))
    wanted, key, value = got.by_hand()
    for stream in got.streams:
        assert stream.x.dtype == dtype and error(stream.x, wanted[stream.name]) < TOLERANCE[dtype]
    assert error(got.key, key) < TOLERANCE[dtype] and error(got.value, value) < TOLERANCE[dtype]


@dtypes
@batches
@with_and_without
@in_spans
@pytest.mark.parametrize("computed", SPANS.values(), ids=SPANS)
def test_a_single_block_is_the_formula(dtype, batch, rows, computed, mlp_rows):
    got = Singles(dtype, batch, min(rows, batch), computed, replace(FUNCTIONS, mlp_rows=mlp_rows))
    wanted, key, value = got.by_hand()
    first, stop = computed.first, computed.stop or TEXT + IMAGE
    assert got.x.dtype == dtype
    assert error(got.x[:, first:stop], wanted[:, first:stop]) < TOLERANCE[dtype]
    for rest in (slice(first), slice(stop, None)):
        assert torch.equal(got.x[:, rest], got.before[:, rest])
    assert error(got.key, key) < TOLERANCE[dtype] and error(got.value, value) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["txt", "img"])
def test_one_stream_alone_is_a_double_block_too(name):
    got = Doubles(names=(name,), rows=1)
    wanted, key, value = got.by_hand()
    assert error(got.streams[0].x, wanted[name]) < TOLERANCE[torch.float32]
    assert error(got.key, key) < TOLERANCE[torch.float32] and error(got.value, value) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("blocks", [Doubles, Singles])
def test_a_missing_reference_would_be_seen(blocks):
    got = blocks(rows=1)
    seen, _, _ = got.by_hand()
    got.reference = None
    unseen, _, _ = got.by_hand()
    if blocks is Doubles:
        seen, unseen = seen["img"], unseen["img"]
    assert error(seen, unseen) > 1000 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("blocks", [Doubles, Singles])
def test_nothing_but_x_is_written(blocks):
    got, untouched = blocks(rows=1), klein(WEIGHTS)
    fresh = untouched.double_blocks[1] if blocks is Doubles else untouched.single_blocks[1]
    assert all(map(torch.equal, got.block.parameters(), fresh.parameters()))
    assert all(map(torch.equal, got.reference, reference(1)))


@dtypes
def test_keys_and_values_alone_are_those_of_the_whole_block(dtype):
    whole = Singles(dtype)
    x = whole.before.clone()
    key, value = single_block_keys_values(whole.block, x, whole.modulation, whole.pe, FUNCTIONS)
    assert error(key, whole.key.double()) < TOLERANCE[dtype] and error(value, whole.value.double()) < TOLERANCE[dtype]
    assert torch.equal(x, whole.before)


def called(block):
    """How often each linear layer of a block is called from here on."""
    counts = {name: 0 for name, part in block.named_modules() if isinstance(part, torch.nn.Linear)}
    for name in counts:

        def count(*_, name=name):
            counts[name] += 1

        block.get_submodule(name).register_forward_hook(count)
    return counts


@pytest.mark.parametrize("blocks", [Doubles, Singles])
def test_what_is_hung_onto_a_linear_layer_holds(blocks):
    got = blocks()
    counts = called(got.block)
    if blocks is Doubles:
        double_block(got.block, got.streams, klein(WEIGHTS).pe_embedder(got.ids), FUNCTIONS)
    else:
        single_block(got.block, got.x, got.modulation, got.pe, FUNCTIONS)
    assert set(counts.values()) == {1}, counts


class TestFloat16:
    def test_infinities_are_clamped_and_nan_is_zero(self):
        x = torch.tensor([1.0, float("inf"), -float("inf"), float("nan")], dtype=torch.float16)
        assert finite_(x) is x and x.tolist() == [1.0, FP16_LIMIT, -FP16_LIMIT, 0.0]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_other_dtypes_keep_them(self, dtype):
        assert finite_(torch.tensor([float("inf")], dtype=dtype)).isinf().all()

    def overflowing(self, *names):
        model = klein(WEIGHTS, torch.float16)
        for name in names:
            model.get_submodule(name).weight.mul_(30000)
        return model

    def test_a_single_block_clamps_what_it_computes(self):
        model = self.overflowing("single_blocks.1.linear2")
        x = drawn(1, TEXT + IMAGE, HIDDEN, seed=4, dtype=torch.float16)
        modulation, _ = model.single_stream_modulation(TIME.half())
        pe = model.pe_embedder(ids(TEXT + IMAGE))
        single_block(model.single_blocks[1], x, modulation, pe, FUNCTIONS)
        assert x.isfinite().all() and (x.abs() == FP16_LIMIT).any()

    def test_a_double_block_clamps_the_text_and_leaves_the_picture_to_the_last_one(self):
        model = self.overflowing("double_blocks.1.img_mlp.2", "double_blocks.1.txt_mlp.2")
        streams = [
            Stream("txt", drawn(1, TEXT, HIDDEN, seed=1).half(), model.double_stream_modulation_txt(TIME.half())),
            Stream("img", drawn(1, IMAGE, HIDDEN, seed=2).half(), model.double_stream_modulation_img(TIME.half())),
        ]
        double_block(model.double_blocks[1], streams, model.pe_embedder(ids(TEXT + IMAGE)), FUNCTIONS)
        text, image = (stream.x for stream in streams)
        assert text.isfinite().all() and (text.abs() == FP16_LIMIT).any()
        assert not image.isfinite().all()
