"""The self-check takes what rounds otherwise, not what is wrong: each op with mistakes made on purpose."""

from functools import partial

import pytest
import torch
from torch.nn.functional import gelu

from klein9b.kernels.eager.fp8_rows import fp8_rows
from klein9b.kernels.eager.gated_residual import gated_residual_
from klein9b.kernels.eager.gated_residual_norm import gated_residual_norm_
from klein9b.kernels.eager.heads_norm_rope import RmsNorm, heads_norm_rope
from klein9b.kernels.eager.int8_linear import int8_linear
from klein9b.kernels.eager.int8_rows import int8_rows
from klein9b.kernels.eager.layer_norm_modulate import layer_norm_modulate
from klein9b.kernels.eager.swiglu_concat import swiglu_concat
from klein9b.kernels.eager.write_kv import write_kv_
from klein9b.kernels.fp8 import Fp8Input, Fp8Rows
from klein9b.kernels.int8 import Int8Rows
from klein9b.kernels.samples import CASES
from klein9b.kernels.self_check import Verdict, self_check

CPU = torch.device("cpu")
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (*HALVES, torch.float32)
INT8 = {
    "layer_norm_modulate_int8": layer_norm_modulate,
    "gated_residual_norm_int8_": gated_residual_norm_,
    "swiglu_concat_int8": swiglu_concat,
}

FP8 = {
    "layer_norm_modulate_fp8": layer_norm_modulate,
    "gated_residual_norm_fp8_": gated_residual_norm_,
    "swiglu_concat_fp8": swiglu_concat,
}


def checked(name, op, dtype=torch.bfloat16, mirrored=True):
    return self_check(name, op, CASES[name].eager, CPU, dtype, mirrored=mirrored)


def wide(value):
    """In float64; everything that is no float stays."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, RmsNorm):
        return RmsNorm(value.weight.double(), torch.finfo(torch.float32).eps)
    return tuple(map(wide, value)) if isinstance(value, tuple) else value


def rounded_once(name):
    """The op in float64, rounded as it is written: what a kernel does that mirrors no rounding."""

    def op(*given, out=None):
        inner = wide(given)
        made = CASES[name].eager(*inner)
        if name.endswith("_"):
            given[0].copy_(inner[0])
        if name == "heads_norm_rope":
            made = tuple(one.to(given[0].dtype) for one in made)
            return made if out is None else tuple(o.copy_(m) for o, m in zip(out, made, strict=True))
        return made.to(given[0].dtype)

    return op


def rounded_once_int8(name):
    def op(*given):
        *arguments, rotation = given
        inner = wide(tuple(arguments))
        made = INT8[name](*inner)
        if name.endswith("_"):
            arguments[0].copy_(inner[0])
        return int8_rows(made.float(), rotation)

    return op


def rounded_once_fp8(name):
    def op(*given):
        *arguments, wanted = given
        inner = wide(tuple(arguments))
        made = FP8[name](*inner)
        if name.endswith("_"):
            arguments[0].copy_(inner[0])
        rows = fp8_rows(made.float(), Fp8Input(wanted.scale, rounded=False))
        return Fp8Rows(rows.levels, rows.scale, arguments[0].dtype)

    return op


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_same_computation_is_exact(name, dtype):
    assert checked(name, partial(CASES[name].eager), dtype) == Verdict(passed=True, exact=True, words="equal bits")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", ["layer_norm_modulate", "gated_residual_", "gated_residual_norm_", "heads_norm_rope", "swiglu_concat"]
)
def test_fewer_roundings_are_accepted_and_not_called_exact(name, dtype):
    verdict = checked(name, rounded_once(name), dtype)
    assert verdict.passed, verdict.words
    assert not verdict.exact and "values" in verdict.words


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", INT8)
def test_fewer_roundings_before_8_bits_are_accepted_where_none_are_mirrored(name, dtype):
    verdict = checked(name, rounded_once_int8(name), dtype, mirrored=False)
    assert verdict.passed, verdict.words
    assert not verdict.exact


@pytest.mark.parametrize("name", INT8)
def test_whoever_says_to_mirror_roundings_must_agree_on_nearly_every_level(name):
    verdict = checked(name, rounded_once_int8(name), mirrored=True)
    assert not verdict.passed and "int8 levels (" in verdict.words


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", FP8)
def test_fewer_roundings_before_float8_are_accepted_where_none_are_mirrored(name, dtype):
    verdict = checked(name, rounded_once_fp8(name), dtype, mirrored=False)
    assert verdict.passed, verdict.words
    assert not verdict.exact


@pytest.mark.parametrize("name", FP8)
def test_whoever_says_to_mirror_roundings_must_agree_on_nearly_every_code(name):
    verdict = checked(name, rounded_once_fp8(name), mirrored=True)
    assert not verdict.passed and "float8 codes (" in verdict.words


def spoiled(name, **changes):
    """The eager op with other arguments, by their position."""

    def op(*given, **options):
        given = list(given)
        for place, change in changes.items():
            given[int(place[1:])] = change(given[int(place[1:])])
        return CASES[name].eager(*given, **options)

    return op


def after(name, change):
    return lambda *given, **options: change(CASES[name].eager(*given, **options))


def with_one(value):
    def op(*given):
        made = layer_norm_modulate(*given)
        made[1, 2, 3] = value
        return made

    return op


def past_the_view(x, y, gate):
    gated_residual_(x, y, gate)
    x.as_strided((1,), (1,), x.storage_offset() - 1).fill_(7.0)
    return x


def not_in_place(x, y, gate):
    return gated_residual_(x.clone(), y, gate)


def out_left_alone(packed, norms, freqs, heads, *, out=None):
    return heads_norm_rope(packed, norms, freqs, heads)


def values_normed(packed, norms, freqs, heads, *, out=None):
    return heads_norm_rope(packed, (*norms[:2], norms[1]), freqs, heads, out=out)


def packed_overwritten(packed, norms, freqs, heads, *, out=None):
    made = heads_norm_rope(packed, norms, freqs, heads, out=out)
    packed[..., 0] = 0
    return made


def levels_moved(share):
    """One level more on a share of them."""

    def change(rows):
        levels = rows.levels.clone()
        some = levels.view(-1)[:: int(1 / share)]
        some.copy_(torch.where(some < 100, some + 1, some - 1))
        return Int8Rows(levels, rows.scale, rows.rotation)

    return change


def one_level_far_off(rows):
    levels = rows.levels.clone()
    levels[0, 0, 0] += 3
    return Int8Rows(levels, rows.scale, rows.rotation)


def codes_moved(share, by=1):
    """So many codes more, on a share of them."""

    def change(rows):
        levels = rows.levels.clone()
        some = levels.view(torch.uint8).view(-1)[:: int(1 / share)]
        magnitude = some & 0x7F
        some.copy_(torch.where((magnitude > 8) & (magnitude < 0x70), some + by, some))
        return Fp8Rows(levels, rows.scale, rows.dtype)

    return change


def normed_gelu(mlp, attended):
    gate, value = mlp.chunk(2, dim=-1)
    made = gelu(gate) * value
    return made if attended is None else torch.cat((attended, made), dim=-1)


MISTAKES = {
    "scale without its one": ("layer_norm_modulate", spoiled("layer_norm_modulate", _1=lambda scale: scale - 1)),
    "one row's scale for all": ("layer_norm_modulate", spoiled("layer_norm_modulate", _1=lambda scale: scale[:1])),
    "a scale 2 % too large": ("layer_norm_modulate", spoiled("layer_norm_modulate", _1=lambda scale: scale + 0.02)),
    "one NaN": ("layer_norm_modulate", with_one(float("nan"))),
    "one infinity": ("layer_norm_modulate", with_one(float("inf"))),
    "one wrong value": ("layer_norm_modulate", with_one(0.3)),
    "another dtype": ("layer_norm_modulate", after("layer_norm_modulate", torch.Tensor.float)),
    "another shape": ("layer_norm_modulate", after("layer_norm_modulate", lambda made: made[:, 1:])),
    "nothing": ("layer_norm_modulate", lambda *given: None),
    "a write outside": ("gated_residual_", past_the_view),
    "no write": ("gated_residual_", not_in_place),
    "one row's gate for all": ("gated_residual_", spoiled("gated_residual_", _2=lambda gate: gate[:1])),
    "the norm before the sum": ("gated_residual_norm_", spoiled("gated_residual_norm_", _2=lambda gate: gate * 1.05)),
    "no rotation": ("heads_norm_rope", partial(heads_norm_rope, rotation=lambda x, freqs: x)),
    "positions off by one": ("heads_norm_rope", spoiled("heads_norm_rope", _2=lambda freqs: freqs.roll(1, 2))),
    "key's norm for queries": ("heads_norm_rope", spoiled("heads_norm_rope", _1=lambda n: (n[1], n[1], n[2]))),
    "values normed": ("heads_norm_rope", values_normed),
    "out left alone": ("heads_norm_rope", out_left_alone),
    "packed overwritten": ("heads_norm_rope", packed_overwritten),
    "halves swapped": ("swiglu_concat", spoiled("swiglu_concat", _0=lambda mlp: mlp.roll(mlp.shape[-1] // 2, -1))),
    "gelu": ("swiglu_concat", normed_gelu),
    "keys as values": ("write_kv_", spoiled("write_kv_", _2=lambda kv: (kv[0], kv[0].expand_as(kv[1])))),
    "keys' scales for values": ("write_kv_int8_", spoiled("write_kv_int8_", _2=lambda kv: (*kv[:3], kv[3] * 1.1))),
    "not rotated": ("layer_norm_modulate_int8", spoiled("layer_norm_modulate_int8", _3=lambda rotation: 0)),
    "a level more on a tenth": ("swiglu_concat_int8", after("swiglu_concat_int8", levels_moved(0.1))),
    "one level far off": ("swiglu_concat_int8", after("swiglu_concat_int8", one_level_far_off)),
    "a scale too large": (
        "gated_residual_norm_int8_",
        after("gated_residual_norm_int8_", lambda rows: Int8Rows(rows.levels, rows.scale * 1.03, rows.rotation)),
    ),
    "bare levels": ("swiglu_concat_int8", after("swiglu_concat_int8", lambda rows: rows.levels)),
    "a code more on a hundredth": ("swiglu_concat_fp8", after("swiglu_concat_fp8", codes_moved(0.01))),
    "some codes far off": ("swiglu_concat_fp8", after("swiglu_concat_fp8", codes_moved(0.0005, by=3))),
    "another scale": (
        "layer_norm_modulate_fp8",
        spoiled("layer_norm_modulate_fp8", _3=lambda wanted: Fp8Input(wanted.scale * 1.01, wanted.rounded)),
    ),
    "a scale that is not used": (
        "gated_residual_norm_fp8_",
        spoiled("gated_residual_norm_fp8_", _5=lambda wanted: Fp8Input(wanted.scale / wanted.scale, wanted.rounded)),
    ),
    "the other way to make float8": (
        "layer_norm_modulate_fp8",
        spoiled("layer_norm_modulate_fp8", _3=lambda wanted: Fp8Input(wanted.scale, not wanted.rounded)),
    ),
    "bare codes": ("swiglu_concat_fp8", after("swiglu_concat_fp8", lambda rows: rows.levels)),
    "a column's scale left out": (
        "int8_linear",
        lambda rows, weight, dtype: (int8_linear(rows, weight, torch.float32) * 1.01).to(dtype),
    ),
}


@pytest.mark.parametrize(("name", "op"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_does_not_pass(name, op):
    verdict = checked(name, op)
    assert not verdict.passed and not verdict.exact and verdict.words


@pytest.mark.parametrize("name", ["swiglu_concat_int8", "layer_norm_modulate_int8"])
def test_a_few_levels_off_by_one_are_accepted(name):
    verdict = checked(name, after(name, levels_moved(0.005)))
    assert verdict.passed and not verdict.exact
    assert "by 1 at most" in verdict.words


def test_a_few_codes_off_by_one_are_accepted():
    verdict = checked("swiglu_concat_fp8", after("swiglu_concat_fp8", codes_moved(0.001)))
    assert verdict.passed and not verdict.exact
    assert "float8 codes (" in verdict.words


def test_minus_zero_is_another_bit():
    def twin_with_a_zero(key, value, appended):
        write_kv_(key, value, appended)
        key[0, 0, 0, 0] = 0.0

    def minus(key, value, appended):
        twin_with_a_zero(key, value, appended)
        key[0, 0, 0, 0] = -0.0

    assert self_check("write_kv_", twin_with_a_zero, twin_with_a_zero, CPU, torch.float16, mirrored=True).exact
    verdict = self_check("write_kv_", minus, twin_with_a_zero, CPU, torch.float16, mirrored=True)
    assert verdict.passed and not verdict.exact


@pytest.mark.parametrize("around", [torch.inference_mode, torch.enable_grad, torch.no_grad])
def test_a_run_is_not_disturbed(around):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    grad = torch.is_grad_enabled()
    with around(), torch.device("meta"):
        assert checked("gated_residual_norm_", gated_residual_norm_).exact
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled() == grad
