"""The samplers against a float64 reference written another way, and against what sampling must honour."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from klein9b.klein.samplers import (
    FINAL_STEPS,
    FLUX2_SIGMA_MIN,
    phi_1,
    phi_2,
    sample_euler,
    sample_res_2s,
    seeded_noise_sampler,
)
from klein9b.klein.schedule import klein_sigmas

# Rounding of some tens of float64 operations on values of size 1.
EXACT64 = 1e-12
# The same in float32: 20 steps of a few operations, each 6e-8 of values up to 4.
EXACT32 = 1e-5

SHAPE = (2, 3, 5, 7)
PEAK, WIDTH = 1.0, 0.5


def denoise(x, sigma, tanh=np.tanh):
    """The exact prediction for data drawn from two Gaussians, at +PEAK and -PEAK, of std WIDTH."""
    signal = 1 - sigma
    variance = (signal * WIDTH) ** 2 + sigma**2
    centre = PEAK * tanh(PEAK * signal * x / variance)
    return centre + WIDTH**2 * signal / variance * (x - signal * centre)


class Model:
    """The exact denoiser for torch, which notes the sigma of every call."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, **extra_args):
        assert sigma.shape == (x.shape[0],) and sigma.dtype == x.dtype
        self.calls.append(float(sigma[0]))
        return denoise(x, sigma.view(-1, 1, 1, 1), torch.tanh)


def start(dtype=torch.float64, shape=SHAPE, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(dtype)


def schedule(name, steps, to_zero=True):
    sigmas = klein_sigmas(steps, 4096) if name == "flux2" else torch.linspace(1, 0, steps + 1)
    if not to_zero:
        sigmas[-1] = sigmas[-2] / 2
    return sigmas


SCHEDULES = [
    pytest.param(schedule(name, steps, to_zero), id=f"{name}-{steps}-{'to0' if to_zero else 'above0'}")
    for name in ("flux2", "linear")
    for steps in (1, 4, 8, 20)
    for to_zero in (True, False)
]


# Steps of h 0.49 and 0.51, and short ones from 0.031 and 0.029: both edges of where RES4LYF moves the start.
ANCHOR_EDGES = pytest.param(
    torch.tensor([0.9, 0.9 * math.exp(-0.49), 0.9 * math.exp(-1.0), 0.031, 0.029, 0.0285, 0.0]), id="edges"
)

# The reference: Runge-Kutta tableaus at 50 digits, on numpy, over a rewritten schedule. It shares with the
# implementation nothing but the mathematics.


def phi_reference(order, z):
    with mpmath.workdps(50):
        z = mpmath.mpf(z)
        return (mpmath.exp(z) - sum(z**k / mpmath.factorial(k) for k in range(order))) / z**order


def tableau(sigma, sigma_next):
    with mpmath.workdps(50):
        h = mpmath.log(mpmath.mpf(sigma) / mpmath.mpf(sigma_next))
        half = mpmath.mpf(1) / 2
        b2 = phi_reference(2, -h) / half
        a21 = half * phi_reference(1, -half * h)
        return float(h), float(a21), float(phi_reference(1, -h) - b2), float(b2)


def renew_reference(denoised, direction, sigma, eta, noise):
    up = eta * sigma
    alpha = (1 - sigma) + math.sqrt(sigma**2 - up**2)
    down = math.sqrt(sigma**2 - up**2) / alpha
    return alpha * (denoised + down * direction) + up * noise


def rk_step(x, sigma, sigma_next, eta, noises):
    """The end of one exponential Runge-Kutta step, and the slope it arrived with before any noise."""
    h, a21, b1, b2 = tableau(sigma, sigma_next)
    first = denoise(x, sigma)
    middle = math.exp((math.log(sigma) + math.log(sigma_next)) / 2)
    x_mid = x + h * a21 * (first - x)
    if eta:
        x_mid = renew_reference(first, (x - first) / sigma, middle, eta, noises.pop(0))
        if h < 0.5 and sigma > 0.03:
            for _ in range(100):
                x = x_mid - h * a21 * (first - x)
    end = x + h * (b1 * (first - x) + b2 * (denoise(x_mid, middle) - x))
    slope = (x - end) / (sigma - sigma_next)
    if not eta or not noises:
        return end, slope
    return renew_reference(x - sigma * slope, slope, sigma_next, eta, noises.pop(0)), slope


def res_2s_reference(x, sigmas, final_step="sigma_min", sigma_min=FLUX2_SIGMA_MIN, eta=0.0, noises=()):
    noises = list(noises)
    sigmas = [float(s) for s in sigmas]
    last = sigmas[-2] if sigmas[-1] == 0 else None
    inner = sigmas[:-1] if last else sigmas
    for sigma, sigma_next in pairwise(inner):
        x, _ = rk_step(x, sigma, sigma_next, eta, noises)
    if last is None:
        return x
    if final_step == "denoise":
        return denoise(x, last)
    if final_step == "extrapolate":
        first = denoise(x, last)
        return 2 * denoise((x + first) / 2, last / 2) - first
    at_min, slope = rk_step(x, last, sigma_min, eta, noises)
    return at_min - sigma_min * slope


def euler_reference(x, sigmas):
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = x * (sigma_next / sigma) + denoise(x, sigma) * ((sigma - sigma_next) / sigma)
    return x


def error(result, reference):
    return np.abs(result.double().numpy() - reference).max()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, EXACT64), (torch.float32, EXACT32)])
@pytest.mark.parametrize("final_step", FINAL_STEPS)
@pytest.mark.parametrize("sigmas", SCHEDULES)
def test_res_2s_equals_the_reference(sigmas, final_step, dtype, tolerance):
    x = start(dtype)
    result = sample_res_2s(Model(), x, sigmas, disable=True, final_step=final_step)
    assert result.dtype == dtype
    assert error(result, res_2s_reference(x.double().numpy(), sigmas, final_step)) <= tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, EXACT64), (torch.float32, EXACT32)])
@pytest.mark.parametrize("sigmas", SCHEDULES)
def test_euler_equals_the_reference(sigmas, dtype, tolerance):
    x = start(dtype)
    result = sample_euler(Model(), x, sigmas, disable=True)
    assert error(result, euler_reference(x.double().numpy(), sigmas)) <= tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, EXACT64), (torch.float32, EXACT32)])
@pytest.mark.parametrize("final_step", ["sigma_min", "denoise"])
@pytest.mark.parametrize("eta", [0.25, 0.5, 0.95])
@pytest.mark.parametrize("sigmas", [*SCHEDULES, ANCHOR_EDGES])
def test_res_2s_with_noise_equals_the_reference(sigmas, eta, final_step, dtype, tolerance):
    x, noises = start(dtype), []

    def recorded(sigma, sigma_next):
        noises.append(start(dtype, seed=100 + len(noises)))
        return noises[-1]

    result = sample_res_2s(Model(), x, sigmas, disable=True, eta=eta, final_step=final_step, noise_sampler=recorded)
    drawn = [noise.double().numpy() for noise in noises]
    expected = res_2s_reference(x.double().numpy(), sigmas, final_step, eta=eta, noises=drawn)
    assert error(result, expected) <= tolerance


def test_noise_adds_nothing_to_a_deterministic_finish():
    sigmas = schedule("linear", 1)
    options = {"disable": True, "final_step": "extrapolate"}
    stochastic = sample_res_2s(Model(), start(), sigmas, {"seed": 1}, eta=0.5, **options)
    assert torch.equal(stochastic, sample_res_2s(Model(), start(), sigmas, **options))


@given(h=st.floats(1e-9, 12.0))
@settings(deadline=None, max_examples=200)
def test_phi_is_accurate_for_every_step_size(h):
    # expm1 is good to an ulp; its difference from the linear term loses at most a factor 2 / 0.1 of that.
    for z in (h, -h):
        assert phi_1(z) == pytest.approx(float(phi_reference(1, z)), rel=1e-15)
        assert phi_2(z) == pytest.approx(float(phi_reference(2, z)), rel=1e-14)
    assert (phi_1(0.0), phi_2(0.0)) == (1.0, 0.5)


def gaussian(x, sigma, **extra_args):
    sigma = sigma.view(-1, 1, 1, 1)
    signal = 1 - sigma
    return WIDTH**2 * signal / ((signal * WIDTH) ** 2 + sigma**2) * x


@pytest.mark.parametrize("sampler, order", [(sample_euler, 1), (sample_res_2s, 2)])
def test_convergence_order(sampler, order):
    x, end = start(), 0.1
    # Data of one Gaussian has the path x(sigma) = noise * std(sigma) in closed form.
    exact = x * math.sqrt(((1 - end) * WIDTH) ** 2 + end**2)
    grids = [torch.linspace(1, end, n + 1, dtype=torch.float64) for n in (32, 64, 128, 256)]
    errors = [(sampler(gaussian, x, sigmas, disable=True) - exact).abs().max() for sigmas in grids]
    measured = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert measured[-1] == pytest.approx(order, abs=0.05)
    assert min(measured) > order - 0.15


@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("final_step", FINAL_STEPS)
def test_res_2s_calls_the_model_twice_a_step_at_falling_sigmas(steps, to_zero, final_step):
    model = Model()
    sample_res_2s(model, start(), schedule("flux2", steps, to_zero), disable=True, final_step=final_step)
    assert len(model.calls) == 2 * steps - (to_zero and final_step == "denoise")
    assert all(later < earlier for earlier, later in pairwise(model.calls))


def test_euler_calls_the_model_once_a_step_at_the_given_sigmas():
    model = Model()
    sigmas = schedule("flux2", 8)
    sample_euler(model, start(), sigmas, disable=True)
    assert model.calls == sigmas[:-1].tolist()


SAMPLERS = [
    pytest.param(sample_euler, {}, id="euler"),
    *[pytest.param(sample_res_2s, {"final_step": step}, id=step) for step in FINAL_STEPS],
    pytest.param(sample_res_2s, {"eta": 0.5}, id="eta"),
]


@pytest.mark.parametrize("sampler, options", SAMPLERS)
@pytest.mark.parametrize("sigmas", [torch.tensor([]), torch.tensor([1.0]), torch.tensor([0.0])])
def test_a_schedule_without_steps_returns_x(sampler, options, sigmas):
    x = start()
    assert sampler(None, x, sigmas, {"seed": 1}, None, True, **options) is x


@pytest.mark.parametrize("sampler, options", SAMPLERS)
@pytest.mark.parametrize("to_zero", [True, False])
def test_one_callback_a_step(sampler, options, to_zero):
    x, seen, sigmas = start(torch.float32), [], schedule("flux2", 5, to_zero)
    result = sampler(Model(), x, sigmas, {"seed": 1}, seen.append, True, **options)
    assert [call["i"] for call in seen] == [0, 1, 2, 3, 4]
    assert [float(call["sigma"]) for call in seen] == sigmas[:-1].tolist()
    assert seen[0]["x"] is x
    # Above sigma 0 the run has no picture yet, and the prediction is what previews and denoised_output want.
    assert torch.equal(seen[-1]["denoised"], result) is to_zero


@pytest.mark.parametrize("sampler, options", SAMPLERS)
def test_repeated_sigmas_cost_and_change_nothing(sampler, options):
    plain, repeated, seen = Model(), Model(), []
    expected = sampler(plain, start(), torch.tensor([1, 0.6, 0.2, 0]), {"seed": 1}, None, True, **options)
    sigmas = torch.tensor([1, 1, 0.6, 0.6, 0.6, 0.2, 0, 0])
    result = sampler(repeated, start(), sigmas, {"seed": 1}, seen.append, True, **options)
    assert torch.equal(result, expected)
    assert repeated.calls == plain.calls
    assert [call["i"] for call in seen] == list(range(7))
    assert torch.equal(seen[-1]["denoised"], result)


@pytest.mark.parametrize("sampler, options", SAMPLERS[:-1])
def test_two_halves_equal_the_whole(sampler, options):
    sigmas = schedule("flux2", 8)
    whole = sampler(Model(), start(), sigmas, disable=True, **options)
    half = sampler(Model(), start(), sigmas[:5], disable=True, **options)
    assert torch.equal(sampler(Model(), half, sigmas[4:], disable=True, **options), whole)


@pytest.mark.parametrize("sampler, options", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_equals_its_singles(sampler, options, dtype):
    x, sigmas = start(dtype, (3, *SHAPE[1:])), schedule("flux2", 4)
    batch = sampler(Model(), x, sigmas, {"seed": 7}, None, True, **options)
    for b in range(3):
        single = sampler(Model(), x[b : b + 1], sigmas, {"seed": 7 + b}, None, True, **options)
        assert torch.equal(single[0], batch[b])


class NoHostSync(TorchDispatchMode):
    """Raises on the operations that make Python wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.item,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
        ), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler, options", SAMPLERS)
def test_the_sigmas_are_read_once_and_nothing_else_waits_for_the_device(sampler, options, monkeypatch):
    reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor) or tolist(tensor))
    sigmas = schedule("linear", 3)
    with NoHostSync():
        sampler(gaussian, start(), sigmas, {"seed": 1}, lambda step: None, True, **options)
        assert len(reads) == 1 and reads[0] is sigmas
        with pytest.raises(AssertionError, match="waits for the device"):
            float(start().sum())


def test_a_last_sigma_at_sigma_min_is_finished_by_its_prediction():
    # RES4LYF leaves a schedule like this one (scheduler karras) unfinished, with noise of sigma_min in it.
    last = FLUX2_SIGMA_MIN + 5e-9
    model, sigmas = Model(), torch.tensor([0.5, last, 0.0], dtype=torch.float64)
    x_last = sample_res_2s(Model(), start(), sigmas[:-1], disable=True)
    result = sample_res_2s(model, start(), sigmas, disable=True)
    assert error(result, denoise(x_last.numpy(), last)) <= EXACT64
    assert len(model.calls) == 3


def test_extra_args_reach_the_model():
    seen = []

    def model(x, sigma, **extra_args):
        seen.append(extra_args)
        return x

    extra_args = {"seed": 4, "denoise_mask": None, "model_options": {}}
    for sampler in (sample_euler, sample_res_2s):
        sampler(model, start(), torch.tensor([0.8, 0.4]), extra_args, disable=True)
    assert seen == [extra_args] * 3


@pytest.mark.parametrize("sampler, options", SAMPLERS)
def test_the_input_is_not_written_to(sampler, options):
    x = start()
    sampler(Model(), x, schedule("linear", 3), {"seed": 1}, None, True, **options)
    assert torch.equal(x, start())


def test_samplers_have_the_name_the_host_logs():
    assert (sample_euler.__name__, sample_res_2s.__name__) == ("sample_euler", "sample_res_2s")


def test_default_noise_is_standard_repeatable_and_each_samples_own():
    x = torch.zeros(4, 3, 16, 16)
    sampler = seeded_noise_sampler(x, 11)
    first, second = sampler(1.0, 0.5), sampler(0.5, 0.25)
    assert torch.equal(first, seeded_noise_sampler(x, 11)(1.0, 0.5))
    assert torch.equal(first[:2], seeded_noise_sampler(x[:2], 11)(1.0, 0.5))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    # Float32 rounding of the mean and std of 256 values.
    assert first.mean(dim=(2, 3)).abs().max() < 1e-6
    assert (first.std(dim=(2, 3)) - 1).abs().max() < 1e-6
    starting_noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(11))
    correlation = torch.corrcoef(torch.stack([starting_noise.flatten(), first[0].flatten()]))[0, 1]
    # Five standard errors of 768 independent values.
    assert abs(correlation) < 5 / math.sqrt(768)


def test_noise_that_is_alike_is_the_one_of_a_sample_alone():
    x = torch.zeros(3, 4, 8, 8)
    alike, alone = seeded_noise_sampler(x, 11, alike=True), seeded_noise_sampler(x[:1], 11)
    for _ in range(2):
        drawn = alone(1.0, 0.5)
        assert torch.equal(alike(1.0, 0.5), drawn.expand(3, -1, -1, -1))


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_default_noise_takes_every_seed_the_host_can_send(seed):
    assert torch.isfinite(seeded_noise_sampler(torch.zeros(2, 1, 1, 1), seed)(1.0, 0.5)).all()


@pytest.mark.parametrize(
    "options, sigmas, sentence",
    [
        ({"final_step": "leap"}, [1, 0], "final_step is 'leap', but must be one of sigma_min, denoise, ex"),
        ({"eta": -0.1}, [1, 0], "eta is -0.1, but must be 0"),
        ({"eta": float("nan")}, [1, 0], "eta is nan"),
        ({"sigma_min": 0.0}, [1, 0], "sigma_min is 0.0, but must be above 0"),
        ({"eta": 0.5}, [1, 0], "pass a seed in extra_args or a noise_sampler"),
        ({"eta": 0.5}, [14.6, 1, 0], "starts at sigma 14.6.* set eta to 0"),
        ({}, [1, 0, 0.5], "Sigma 1 of the schedule is 0.0, but every sigma before the final 0"),
        ({}, [-1, 0], "Sigma 0 of the schedule is -1.0"),
        ({}, [1, float("nan"), 0], "Sigma 1 of the schedule is nan"),
        ({}, [1, float("inf")], "Sigma 1 of the schedule is inf"),
        ({}, [1, -0.5], "Sigma 1 of the schedule is -0.5"),
    ],
)
def test_what_has_no_meaning_is_refused_before_the_model_runs(options, sigmas, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample_res_2s(None, start(), torch.tensor(sigmas), disable=True, **options)
