"""Klein 9B Negative: what it refuses and what it hands on."""

import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfy_host")


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.negative import Klein9BNegative

    return Klein9BNegative


def conditioning(fill):
    return [[torch.full((1, 512, 16), fill), {"pooled_output": None}]]


def settings(of):
    from klein9b.nodes.host.attention_settings import settings_on

    return settings_on(of)


def test_the_negative_lies_on_the_positive(node):
    positive, negative = conditioning(1.0), conditioning(2.0)
    (steered,) = node.execute(positive, negative, 4.0).args
    (only,) = settings(steered)
    assert only.negative.strength == 4.0 and torch.equal(only.negative.embeds, negative[0][0])
    assert steered[0][0] is positive[0][0] and "control" not in positive[0][1]


def test_strength_1_changes_nothing(node):
    positive = conditioning(1.0)
    assert node.execute(positive, conditioning(2.0), 1.0).args == (positive,)


def test_an_empty_one_is_told(node):
    with pytest.raises(ValueError, match=r"nothing to steer away from.*negative_prompt"):
        node.execute(conditioning(1.0), conditioning(0.0), 4.0)


@pytest.mark.parametrize(
    ("negative", "sentence"),
    [
        (conditioning(2.0) + conditioning(3.0), "is several prompts, but one is expected"),
        ([[torch.ones(2, 512, 16), {}]], "is several prompts, but one is expected"),
        ([[torch.ones(1, 77, 8), {}]], "has 8 channels and the positive one 16.*Encode both with"),
    ],
    ids=["combined", "a batch", "another encoder's"],
)
def test_one_that_cannot_be_read_is_told(node, negative, sentence):
    """And not read in part, or failed on in the model."""
    with pytest.raises(ValueError, match=sentence):
        node.execute(conditioning(1.0), negative, 4.0)


def test_a_second_one_takes_the_firsts_place(node):
    once = node.execute(conditioning(1.0), conditioning(2.0), 4.0).args[0]
    twice = node.execute(once, conditioning(3.0), 6.0).args[0]
    first, second = settings(twice)
    assert first.joined(second).negative.strength == 6.0
