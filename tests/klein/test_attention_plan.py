"""Plans against a dense matrix of weights that is written from the rules, a pair of tokens at a time."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from dense_attention import Rules, by_rules
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.attention_plan import Layout, attention_plan, reference_plan, unclaimed
from klein9b.klein.influence import AttentionSettings, Box, Cast, Influence, Mask, Negative, UnusableRegion
from klein9b.klein.parts_run import attended_by_parts

SAME_MATHS = 1e-5
LEFT, RIGHT, TOP = Box(right=0.5), Box(left=0.5), Box(bottom=0.5)
LAYOUT = Layout(text=10, negative=0, picture=(4, 6), references=(5, 3))
TWELFTHS = st.integers(0, 12)
STRENGTH = st.sampled_from([0.0, 0.25, 1.0, 1.0, 2.0, 8.0])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens_of(layout, seed=0):
    """Queries, keys and values that differ enough for a wrong key to be seen."""
    return [normal(2, 3, layout.tokens, 8, seed=seed + i) * (2.0 if i < 2 else 1.0) for i in range(3)]


def plain(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def by_plan(asked, layout, q, k, v):
    attend = q.shape[2] == layout.tokens
    groups = attention_plan(asked, layout, references_attend=attend)
    strength = asked.negative.strength if asked.negative else 1.0
    return attended_by_parts(groups, q, k, v, plain, strength) if groups else plain(q, k, v)


def is_by_rules(asked, layout, seed=0):
    q, k, v = tokens_of(layout, seed)
    for count in (layout.tokens, layout.own):
        got, wanted = by_plan(asked, layout, q[:, :, :count], k, v), by_rules(asked, layout, q[:, :, :count], k, v)
        assert float((got - wanted).norm() / wanted.norm()) <= SAME_MATHS


def cast(where, *tokens, references=(), prompt_tokens=10):
    return Cast(tuple(tokens), prompt_tokens, frozenset(references), where)


def negative(strength=3.0):
    return Negative(torch.zeros(1, 4, 8), strength)


@st.composite
def boxes(draw):
    (left, right), (top, bottom) = (sorted(draw(st.tuples(TWELFTHS, TWELFTHS))) for _ in range(2))
    return Box(left / 12, top / 12, max(right, left + 1) / 12, max(bottom, top + 1) / 12)


@st.composite
def masks(draw, rows, columns):
    """Soft edges as often as hard ones; each painted on four or two pixels a cell."""
    fine = draw(st.sampled_from([2, 4]))
    levels = draw(st.sampled_from([[0.0, 1.0], [0.0, 0.25, 1.0], [1.0]]))
    place = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    painted = torch.randint(len(levels), (rows * fine, columns * fine), generator=place)
    return Mask(torch.tensor(levels)[painted])


@st.composite
def cases(draw):
    sizes = st.sampled_from([1, 2, 3, 4, 6])
    rows, columns = draw(sizes), draw(sizes)
    region = st.one_of(boxes(), st.sampled_from([LEFT, RIGHT, TOP, Box()]), masks(rows, columns))
    text = draw(st.integers(1, 9))
    layout = Layout(
        text, draw(st.sampled_from([0, 0, 4])), (rows, columns), tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    )
    numbers = st.integers(1, 3)
    influence = st.builds(Influence, STRENGTH, st.one_of(st.none(), region))
    length = draw(st.integers(1, text + 2))  # The other prompt of a batch may be the shorter one.
    edges = st.integers(0, length)
    run = st.tuples(edges, edges).map(sorted).map(tuple)
    references = st.frozensets(numbers, max_size=2)
    casts = st.builds(Cast, st.lists(run, max_size=2).map(tuple), st.just(length), references, region)
    asked = AttentionSettings(
        draw(st.dictionaries(numbers, influence, max_size=3)),
        tuple(draw(st.lists(casts, max_size=3))),
        negative(draw(st.sampled_from([1.0, 2.0, 6.0]))) if layout.negative else None,
    )
    return asked, layout


@settings(max_examples=250, deadline=None)
@given(cases(), st.integers(0, 99))
def test_it_is_the_rules(case, seed):
    is_by_rules(*case, seed)


NAMED = {
    "a strength": AttentionSettings({1: Influence(2.0)}),
    "a strength of nothing": AttentionSettings({2: Influence(0.0)}),
    "a place": AttentionSettings({1: Influence(3.0, LEFT)}),
    "a place with a soft edge": AttentionSettings({1: Influence(1.0, Box(right=0.4))}),
    "two casts": AttentionSettings(casts=(cast(LEFT, (1, 4), references=[1]), cast(RIGHT, (5, 9), references=[2]))),
    "casts that overlap": AttentionSettings(casts=(cast(LEFT, (1, 6)), cast(TOP, (4, 9), references=[1]))),
    "a cast in a cast": AttentionSettings(casts=(cast(LEFT, (1, 3)), cast(Box(right=0.25), (4, 6), references=[1]))),
    "a reference in two casts": AttentionSettings(
        casts=(cast(LEFT, (1, 4), references=[1]), cast(RIGHT, (5, 9), references=[1, 2]))
    ),
    "a cast in two runs": AttentionSettings(casts=(cast(LEFT, (0, 2), (7, 10)),)),
    "strengths in casts": AttentionSettings(
        {1: Influence(2.0, TOP), 2: Influence(0.5)},
        (cast(LEFT, (1, 4), references=[1]), cast(RIGHT, (5, 9), references=[2])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("against", [0, 6], ids=["", "negative"])
@pytest.mark.parametrize("name", NAMED)
def test_what_people_set(name, against):
    asked = replace(NAMED[name], negative=negative() if against else None)
    layout = replace(LAYOUT, negative=against)
    assert attention_plan(asked, layout), "nothing would be tested"
    is_by_rules(asked, layout)


def test_another_plan_would_be_seen():
    """Each of these differs from the next one in its output, by far more than is allowed."""
    q, k, v = tokens_of(LAYOUT)
    made = [by_rules(asked, LAYOUT, q, k, v) for asked in (AttentionSettings(), *NAMED.values())]
    for one, other in pairwise(made):
        assert float((one - other).norm() / one.norm()) > 100 * SAME_MATHS


NOTHING = {
    "nothing": AttentionSettings(),
    "a strength of 1": AttentionSettings({1: Influence(1.0), 2: Influence(1.0, Box())}),
    "a mask that is full": AttentionSettings({1: Influence(1.0, Mask(torch.ones(32, 48)))}),
    "strength of a reference that is not there": AttentionSettings({5: Influence(3.0)}),
    "one cast over everything": AttentionSettings(casts=(cast(Box(), (2, 5), references=[1]),)),
    "a painted cast over everything": AttentionSettings(
        casts=(cast(Mask(torch.ones(32, 48)), (2, 5), references=[2]),)
    ),
    "what two casts share that are everywhere": AttentionSettings(casts=(cast(LEFT, (1, 4)), cast(RIGHT, (1, 4)))),
    "a cast of nothing": AttentionSettings(casts=(cast(LEFT),)),
}  # fmt: skip


@pytest.mark.parametrize("references_attend", [True, False])
@pytest.mark.parametrize("name", NOTHING)
def test_where_nothing_is_set_there_is_no_plan(name, references_attend):
    assert attention_plan(NOTHING[name], LAYOUT, references_attend=references_attend) == ()
    assert reference_plan(NOTHING[name], LAYOUT.references) == ()


@pytest.mark.parametrize("name", NAMED)
def test_references_among_themselves(name):
    """They see each other as ever, but for those of another cast; no region of the picture is asked for."""
    asked = NAMED[name]
    alone = Layout(0, 0, (0, 0), LAYOUT.references)
    q, k, v = tokens_of(alone)
    groups = reference_plan(asked, LAYOUT.references)
    got = attended_by_parts(groups, q, k, v, plain) if groups else plain(q, k, v)
    whole = replace(LAYOUT, text=10)
    weights = Rules(asked, whole).positive()[LAYOUT.own :, LAYOUT.own :]
    logits = q @ k.mT / 8**0.5 + weights.log()
    wanted = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert float((got - wanted).norm() / wanted.norm()) <= SAME_MATHS


def test_references_of_casts_apart_do_not_see_each_other():
    asked = NAMED["two casts"]
    assert [group.queries for group in reference_plan(asked, (5, 3))] == [(0, 5), (5, 8)]
    assert reference_plan(replace(asked, casts=()), (5, 3)) == ()


def keys_of(layout, asked, number):
    """Which tokens are cast `number`'s alone."""
    tokens = Rules(asked, layout).tokens
    return torch.tensor([token.casts == {number} for token in tokens])


@pytest.mark.parametrize("with_negative", [0, 4])
def test_nothing_passes_between_casts(with_negative):
    """In one attention: other numbers in one cast's tokens, and the other's queries take the same, bit for bit."""
    layout = replace(LAYOUT, negative=with_negative)
    asked = replace(NAMED["two casts"], negative=negative() if with_negative else None)
    q, k, v = tokens_of(layout)
    first, second = (keys_of(layout, asked, number) for number in (0, 1))
    right = torch.tensor([t.kind == "picture" and t.cell[1] >= 3 for t in Rules(asked, layout).tokens])
    left = torch.tensor([t.kind == "picture" and t.cell[1] < 3 for t in Rules(asked, layout).tokens])
    before = by_plan(asked, layout, q, k, v)
    other_k, other_v = k.clone(), v.clone()
    other_k[:, :, first], other_v[:, :, first] = 5.0, 1e4
    after = by_plan(asked, layout, q, other_k, other_v)
    kept = second | right
    assert torch.equal(before[:, kept], after[:, kept])
    assert float((before - after)[:, left].abs().min(dim=-1).values.max()) > 1
    assert float((before - after)[:, first].abs().max()) > 1


def test_a_cast_sees_no_picture_outside_its_region():
    asked = NAMED["two casts"]
    q, k, v = tokens_of(LAYOUT)
    tokens = Rules(asked, LAYOUT).tokens
    outside = torch.tensor([t.kind == "picture" and t.cell[1] >= 3 for t in tokens])
    own = keys_of(LAYOUT, asked, 0)
    other = v.clone()
    other[:, :, outside] = 1e4
    before, after = (by_plan(asked, LAYOUT, q, k, one) for one in (v, other))
    assert torch.equal(before[:, own], after[:, own]) and not torch.equal(before, after)


def test_one_region_over_two_casts_lets_them_see_each_other():
    whole = AttentionSettings(casts=(cast(Box(), (1, 4), references=[1]), cast(Box(), (5, 9), references=[2])))
    assert attention_plan(whole, LAYOUT) == ()


def test_a_mask_of_another_shape_is_refused():
    asked = AttentionSettings({1: Influence(2.0, Mask(torch.ones(48, 32), "mask of image 1"))})
    with pytest.raises(UnusableRegion, match="mask of image 1 is 32x48 pixels, but the picture is 96x64"):
        attention_plan(asked, LAYOUT)


def test_what_nobody_claims():
    halves = [cast(LEFT), cast(Box(left=0.75))]
    assert unclaimed(halves, 4, 8) == pytest.approx(0.25)
    assert unclaimed([cast(Box())], 4, 8) == 0
    assert unclaimed([cast(LEFT), cast(RIGHT)], 5, 7) == 0
    assert unclaimed([cast(Mask(torch.zeros(16, 32)))], 4, 8) == 1


def test_no_more_groups_than_differ():
    """Costs: what sees the same is one attention, and a hard edge needs no weight of each query's own."""
    groups = attention_plan(NAMED["a place"], LAYOUT)
    assert [group.queries for group in groups] == [(0, 10), (10, 34), (34, 42)]
    (rest, there) = groups[1].parts[0], groups[1].parts[1]
    assert rest.queries is None and len(there.queries) == 12
    assert len(attention_plan(AttentionSettings({2: Influence(2.0)}), LAYOUT)) == 2


@pytest.mark.parametrize(
    ("prompt_tokens", "text", "run", "wanted"),
    [
        (10, 10, (2, 4), (2, 4)),
        (8, 10, (2, 4), (4, 6)),  # filled up from the front
        (512, 1024, (2, 4), (2, 4)),  # another prompt joined behind it
        (10, 10, (8, 15), (8, 10)),  # no further than the prompt goes
        (10, 10, (12, 15), None),
    ],
)
def test_where_a_casts_tokens_are(prompt_tokens, text, run, wanted):
    layout = Layout(text, 0, (2, 2), ())
    groups = attention_plan(AttentionSettings(casts=(cast(LEFT, run, prompt_tokens=prompt_tokens),)), layout)
    assert [group.queries for group in groups if group.queries == wanted] == ([wanted] if wanted else [])
    assert bool(groups) == bool(wanted)
