"""Klein9BSampler and Klein9BScheduler in the real host, on a denoiser small enough to be exact."""

import copy
import importlib
import math
import sys

import pytest
import torch

pytestmark = pytest.mark.host

STEPS = 4
FINAL_STEPS = ["sigma_min", "denoise", "extrapolate"]
CHOICES = [
    pytest.param({"sampler": "euler"}, id="euler"),
    *[
        pytest.param({"sampler": "res_2s", "eta": eta, "final_step": step}, id=f"{step}-eta{eta}")
        for step in FINAL_STEPS
        for eta in (0.0, 0.5)
    ],
]


@pytest.fixture(scope="module")
def node(comfy_host):
    return importlib.import_module("klein9b.nodes.sampler")


@pytest.fixture(scope="module")
def scheduler(comfy_host):
    return importlib.import_module("klein9b.nodes.scheduler").Klein9BScheduler


@pytest.fixture
def calls():
    return []


@pytest.fixture
def guider(comfy_host, calls):
    """The host's guider over its FLUX.2 model class, whose network is the velocity of Gaussian data."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.samplers
    import comfy.supported_models

    class Velocity(torch.nn.Module):
        dtype = torch.float32

        def __init__(self, **unet_config):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, timesteps, **conditioning):
            sigma = timesteps.view(-1, 1, 1, 1)
            calls.append(float(timesteps[0]))
            variance = 0.25 * (1 - sigma) ** 2 + sigma**2
            return (x - 0.25 * (1 - sigma) / variance * x) / sigma

    config = comfy.supported_models.Flux2({"image_model": "flux2", "hidden_size": 256})
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.FLUX, unet_model=Velocity)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds([[torch.zeros(1, 4, 8), {}]], [[torch.zeros(1, 4, 8), {}]])
    guider.set_cfg(1.0)
    return guider


def chosen(node, choice):
    return node.Klein9BSampler.execute(sampler=dict(choice)).args[0]


def tensors(batch=1):
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(batch, 128, 6, 5, generator=generator) for _ in range(2))


def sigmas_of(scheduler, latent, steps=STEPS, denoise=1.0, shift="flux2"):
    return scheduler.execute({"samples": latent}, steps, denoise, {"shift": shift}).args[0]


def run(guider, sampler, sigmas, noise, latent, **options):
    return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=5, **options)


def test_the_model_below_is_the_hosts_flux2(guider):
    from klein9b.klein.samplers import FLUX2_SIGMA_MIN

    sampling = guider.model_patcher.model.model_sampling
    assert float(sampling.sigma_min) == FLUX2_SIGMA_MIN
    assert float(sampling.sigma_max) == 1


@pytest.mark.parametrize("steps", [1, 4, 8, 20])
def test_euler_is_the_hosts_euler_bit_for_bit(guider, node, scheduler, steps):
    import comfy.samplers

    noise, latent = tensors()
    sigmas = sigmas_of(scheduler, latent, steps)
    ours, theirs = chosen(node, {"sampler": "euler"}), comfy.samplers.ksampler("euler")
    if steps > 1:
        before_0 = [run(guider, sampler, sigmas[:-1], noise, latent) for sampler in (ours, theirs)]
        assert torch.equal(*before_0)
    result, steps_seen = run(guider, ours, sigmas, noise, latent), []
    at_0 = run(guider, theirs, sigmas, noise, latent, callback=lambda *step: steps_seen.append(step))
    assert torch.equal(result, steps_seen[-1][1])
    # The host goes on from its last prediction to x - (x - denoised) / sigma * sigma, three roundings away.
    assert torch.allclose(result, at_0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_the_area_outside_a_mask_comes_back_bit_for_bit(guider, node, scheduler, choice, denoise):
    noise, latent = tensors()
    mask = torch.zeros(1, 1, 6, 5)
    mask[..., 2:5, 1:3] = 1
    sigmas = sigmas_of(scheduler, latent, denoise=denoise)
    result = run(guider, chosen(node, choice), sigmas, noise, latent, denoise_mask=mask)
    outside = (mask == 0).expand_as(latent)
    assert torch.equal(result[outside], latent[outside])
    assert not torch.isclose(result[~outside], latent[~outside]).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_host_sees_one_callback_a_step_and_the_result_in_the_last(guider, node, scheduler, choice):
    noise, latent = tensors()
    sigmas, seen = sigmas_of(scheduler, latent), []
    sampler = chosen(node, choice)
    result = run(guider, sampler, sigmas, noise, latent, callback=lambda *step: seen.append(step))
    assert [(i, total) for i, denoised, x, total in seen] == [(i, STEPS) for i in range(STEPS)]
    assert torch.equal(seen[-1][1], result)


def test_custom_sampling_gives_the_picture_as_both_outputs(guider, node, scheduler):
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

    _, latent = tensors()
    sampler = chosen(node, {"sampler": "res_2s", "eta": 0.0, "final_step": "extrapolate"})
    sigmas = sigmas_of(scheduler, latent)
    node_output = SamplerCustomAdvanced.execute(Noise_RandomNoise(3), guider, sampler, sigmas, {"samples": latent})
    output, denoised = node_output.args
    assert torch.equal(output["samples"], denoised["samples"])


@pytest.mark.parametrize("choice", CHOICES)
def test_an_interrupt_stops_before_the_next_call_of_the_model(guider, node, scheduler, choice, calls):
    import comfy.model_management as management

    noise, latent = tensors()
    model = guider.model_patcher.model.diffusion_model
    model.register_forward_hook(lambda *_: management.interrupt_current_processing(len(calls) == 3))
    with pytest.raises(management.InterruptProcessingException):
        run(guider, chosen(node, choice), sigmas_of(scheduler, latent), noise, latent)
    assert len(calls) == 3


def test_res_2s_uses_the_sigma_min_of_the_model_it_samples(guider, node, scheduler, calls):
    noise, latent = tensors()
    choice = {"sampler": "res_2s", "eta": 0.0, "final_step": "sigma_min"}
    run(guider, chosen(node, choice), sigmas_of(scheduler, latent, 1), noise, latent)
    sampling = copy.deepcopy(guider.model_patcher.get_model_object("model_sampling"))
    sampling.set_parameters(shift=4.0)
    guider.model_patcher.add_object_patch("model_sampling", sampling)
    run(guider, chosen(node, choice), sigmas_of(scheduler, latent, 1), noise, latent)
    shifted = math.exp(4) / (math.exp(4) + 9999)
    # A step from 1 to sigma_min has its midpoint at the root of sigma_min.
    assert calls[1] == pytest.approx(math.sqrt(7.533399038948119e-04), rel=1e-5)
    assert calls[3] == pytest.approx(math.sqrt(shifted), rel=1e-5)


def test_res_2s_runs_on_a_model_of_another_caller(node):
    sampler = chosen(node, {"sampler": "res_2s", "eta": 0.0, "final_step": "sigma_min"})
    result = sampler.sampler_function(lambda x, sigma: x, torch.ones(1, 1, 2, 2), torch.tensor([1.0, 0.0]))
    assert torch.equal(result, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_batch_samples_like_its_first_picture_alone(guider, node, scheduler, choice):
    noise, latent = tensors(3)
    sigmas = sigmas_of(scheduler, latent)
    batch = run(guider, chosen(node, choice), sigmas, noise, latent)
    single = run(guider, chosen(node, choice), sigmas, noise[:1], latent[:1])
    assert torch.equal(batch[:1], single)


def test_importing_the_node_leaves_the_hosts_samplers_alone(comfy_host):
    import comfy.k_diffusion.sampling
    import comfy.samplers

    def state():
        names = list(comfy.samplers.SAMPLER_NAMES), list(comfy.samplers.KSampler.SAMPLERS)
        return (*names, dict(vars(comfy.k_diffusion.sampling)))

    sys.modules.pop("klein9b.nodes.sampler", None)
    before = state()
    node = importlib.import_module("klein9b.nodes.sampler")
    for choice in CHOICES:
        chosen(node, choice.values[0])
    assert state() == before
    assert "res_2s" not in before[0]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 20, 50, 200, 1000])
def test_flux2_sigmas_are_the_hosts_bit_for_bit(comfy_host, scheduler, steps):
    from comfy_extras.nodes_flux import Flux2Scheduler

    # 43 x 100 and 11 x 391 are 4300 and 4301 tokens, the two sides of the jump.
    grids = [(1, 1), (32, 32), (48, 85), (64, 64), (43, 100), (11, 391), (64, 96), (90, 90), (128, 128)]
    grids += [(height, 7 * height % 200 + 1) for height in range(1, 256, 5)]
    for height, width in grids:
        ours = sigmas_of(scheduler, torch.empty(1, 128, height, width), steps)
        theirs = Flux2Scheduler.execute(steps, width * 16, height * 16).args[0]
        assert torch.equal(ours, theirs), (height, width)
        assert ours.dtype == theirs.dtype and ours.device == theirs.device


@pytest.mark.parametrize("denoise", [1.0, 0.99, 0.8, 0.5, 0.3, 0.05])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_denoise_means_what_it_means_in_the_hosts_scheduler(guider, scheduler, steps, denoise):
    from comfy_extras.nodes_custom_sampler import BasicScheduler
    from comfy_extras.nodes_flux import Flux2Scheduler

    theirs = BasicScheduler.execute(guider.model_patcher, "simple", steps, denoise).args[0]
    ours = sigmas_of(scheduler, torch.empty(1, 128, 64, 64), steps, denoise)
    assert ours.shape == theirs.shape
    longer = Flux2Scheduler.execute(int(steps / denoise), 1024, 1024).args[0]
    assert torch.equal(ours, longer[-(steps + 1) :])


def test_denoise_0_returns_the_latent_it_was_given(guider, node, scheduler):
    noise, latent = tensors()
    sigmas = sigmas_of(scheduler, latent, denoise=0.0)
    assert torch.equal(run(guider, chosen(node, {"sampler": "euler"}), sigmas, noise, latent), latent)


def test_a_latent_of_another_model_is_refused_in_a_sentence(scheduler):
    with pytest.raises(ValueError, match=r"This latent is \[1, 16, 64, 64\], but FLUX.2 works on"):
        sigmas_of(scheduler, torch.empty(1, 16, 64, 64))


def as_executed(cls, widgets):
    """The arguments the host's executor makes of a queued prompt's flat widget values."""
    from comfy_api.latest import _io

    _, _, v3_data = _io.get_finalized_class_inputs(cls.INPUT_TYPES(), widgets)
    return _io.build_nested_inputs(widgets, v3_data)


def test_a_queued_prompt_reaches_the_nodes(node, scheduler):
    widgets = {"sampler": "res_2s", "sampler.eta": 0.5, "sampler.final_step": "denoise"}
    sampler = node.Klein9BSampler.execute(**as_executed(node.Klein9BSampler, widgets)).args[0]
    assert sampler.sampler_function is node.klein9b_res_2s
    assert sampler.extra_options == {"eta": 0.5, "final_step": "denoise"}
    widgets = {"sampler": "euler"}
    sampler = node.Klein9BSampler.execute(**as_executed(node.Klein9BSampler, widgets)).args[0]
    assert (sampler.sampler_function, sampler.extra_options) == (node.klein9b_euler, {})
    latent = {"samples": torch.empty(1, 128, 64, 64)}
    widgets = {"latent": latent, "steps": 2, "denoise": 1.0, "shift": "fixed", "shift.mu": 1.0}
    sigmas = scheduler.execute(**as_executed(scheduler, widgets)).args[0]
    assert sigmas[1].item() == pytest.approx(math.e / (math.e + 1), rel=1e-6)


def test_every_input_and_output_is_explained(node, scheduler):
    for cls in (node.Klein9BSampler, scheduler):
        schema = cls.define_schema()
        schema.validate()
        assert schema.node_id == cls.__name__
        assert schema.description and schema.search_aliases and schema.category == "Klein 9B"
        for socket in [entry for each in schema.inputs for entry in each.get_all()] + schema.outputs:
            assert socket.tooltip, socket.id
