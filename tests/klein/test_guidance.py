"""Normalized attention guidance against the paper's equations."""

import pytest
import torch
from dense_attention import guided as by_equations

from klein9b.klein.guidance import ALPHA, TAU, guided

STRENGTHS = [0.0, 1.0, 1.2, 5.0, 50.0]


def rows(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 7, 16, generator=generator, dtype=torch.float64) * scale


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_it_is_the_equations(strength, scale):
    positive, negative = rows(1), rows(2, scale)
    assert torch.allclose(guided(positive, negative, strength), by_equations(positive, negative, strength), rtol=1e-12)


def test_a_strength_of_1_changes_nothing():
    assert torch.allclose(guided(rows(1), rows(2), 1.0), rows(1), rtol=1e-12)


def test_it_is_bounded():
    """The guided rows are at most tau times as long, of which alpha is taken."""
    positive = rows(1)
    out = guided(positive, rows(2), 50.0)
    longest = (ALPHA * TAU + 1 - ALPHA) * positive.abs().sum(-1)
    assert bool((out.abs().sum(-1) <= longest * (1 + 1e-9)).all())
    assert float((out - positive).norm() / positive.norm()) > 0.1


def test_rows_of_nothing_stay_finite():
    assert guided(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), 5.0).isfinite().all()
    assert guided(torch.zeros(1, 2, 4), torch.ones(1, 2, 4), 5.0).isfinite().all()
