"""klein/schedule.py against BFL's published numbers and the properties each shift promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.klein.schedule import (
    FIXED_MU,
    JUMP_TOKENS,
    SHIFTS,
    empirical_mu,
    klein_sigmas,
    shifted_sigmas,
    smooth_mu,
)

TOKENS = st.integers(1, 65536)
UP_TO_4_MEGAPIXELS = st.integers(1, 16384)
STEPS = st.integers(1, 400)


@pytest.mark.parametrize(
    "tokens, sigmas",
    [
        (1024, [1, 0.958, 0.884, 0.718, 0]),
        (4096, [1, 0.967, 0.908, 0.767, 0]),
        (4300, [1, 0.968, 0.910, 0.770, 0]),
        (4301, [1, 0.907, 0.766, 0.522, 0]),
        (6144, [1, 0.931, 0.817, 0.598, 0]),
        (16384, [1, 0.987, 0.962, 0.894, 0]),
    ],
)
def test_flux2_gives_the_sigmas_of_bfls_code(tokens, sigmas):
    assert klein_sigmas(4, tokens).tolist() == pytest.approx(sigmas, abs=6e-4)


@given(UP_TO_4_MEGAPIXELS, STEPS, st.sampled_from(SHIFTS), st.floats(-3, 3))
@settings(deadline=None, max_examples=200)
def test_sigmas_fall_from_1_to_0_in_float32_on_the_cpu(tokens, steps, shift, mu):
    sigmas = klein_sigmas(steps, tokens, shift=shift, mu=mu)
    assert (sigmas.dtype, sigmas.device.type, len(sigmas)) == (torch.float32, "cpu", steps + 1)
    # Float32's reciprocal leaves one unit in the last place at the top, in Flux2Scheduler too.
    assert 1 - 2**-24 <= sigmas[0] <= 1 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@given(STEPS, st.floats(-3, 6))
@settings(deadline=None, max_examples=50)
def test_mu_is_the_log_odds_shift(steps, mu):
    sigmas = shifted_sigmas(steps, mu).double()[1:-1]
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[1:-1]
    # Float32 keeps the odds sigma / (1 - sigma) to 6e-8 / (1 - sigma), at most 1e-2 here.
    assert torch.allclose((sigmas.logit() - t.logit()), torch.tensor(mu, dtype=torch.float64), atol=2e-2)


def test_fixed_ignores_the_size_and_defaults_to_the_hosts_shift():
    small, large = (klein_sigmas(4, tokens, shift="fixed") for tokens in (256, 65536))
    assert torch.equal(small, large)
    assert small[2].item() == pytest.approx(math.exp(FIXED_MU) / (math.exp(FIXED_MU) + 1), rel=1e-6)
    assert torch.equal(klein_sigmas(4, 256, shift="fixed", mu=0.0), torch.linspace(1, 0, 5))


@given(TOKENS, STEPS)
@settings(deadline=None, max_examples=300)
def test_smooth_mu_never_falls_as_tokens_grow(tokens, steps):
    assert smooth_mu(tokens, steps) <= smooth_mu(tokens + 1, steps)


@given(TOKENS, STEPS)
@settings(deadline=None, max_examples=300)
def test_smooth_mu_is_continuous(tokens, steps):
    # BFL's steepest line rises by 1.7e-4 a token (below 10 steps and far out, 1e-4 or less).
    assert smooth_mu(tokens + 1, steps) - smooth_mu(tokens, steps) < 1.8e-4


@given(st.integers(1, JUMP_TOKENS), st.integers(1, 200))
@settings(deadline=None, max_examples=200)
def test_smooth_mu_is_flux2s_below_the_jump(tokens, steps):
    assert smooth_mu(tokens, steps) == empirical_mu(tokens, steps)


@pytest.mark.parametrize("steps, rejoins", [(4, 10940), (20, 10398), (200, 4301)])
def test_smooth_mu_is_held_until_flux2_has_risen_to_it(steps, rejoins):
    held = empirical_mu(JUMP_TOKENS, steps)
    for tokens in range(JUMP_TOKENS + 1, rejoins, 97):
        assert empirical_mu(tokens, steps) < smooth_mu(tokens, steps) == held
    for tokens in (rejoins, 16384, 65536):
        assert smooth_mu(tokens, steps) == empirical_mu(tokens, steps)


def test_the_jump_is_there_in_flux2_and_gone_in_smooth():
    assert empirical_mu(4300, 4) - empirical_mu(4301, 4) > 1.1
    assert torch.equal(klein_sigmas(4, 4301, shift="smooth"), klein_sigmas(4, 4300))


@pytest.mark.parametrize("shift", SHIFTS)
def test_denoise_keeps_the_steps_and_takes_the_tail_of_a_longer_schedule(shift):
    sigmas = klein_sigmas(4, 4096, 0.5, shift)
    assert torch.equal(sigmas, klein_sigmas(8, 4096, 1.0, shift)[-5:])
    assert len(klein_sigmas(20, 4096, 0.37, shift)) == 21


def test_denoise_0_leaves_nothing_to_sample():
    assert klein_sigmas(4, 4096, 0.0).shape == (0,)


def test_an_unknown_shift_is_refused():
    with pytest.raises(ValueError, match="shift is 'steep', but must be one of flux2, fixed, smooth"):
        klein_sigmas(4, 4096, shift="steep")
