"""klein/residency.py beside what the host's own memory manager keeps of Klein 9B at full size.

The weights are on the meta device, which stands in for the card: the host counts them as it counts any, and what is
free there is the card's size less what it has loaded. Nothing of the host's decisions is replaced.
"""

import dataclasses

import pytest
import torch

from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.official_files import encoder_file, model_file, vae_file
from klein9b.klein.plan import Files, Plan
from klein9b.klein.residency import GIB, MIB, Card, Module, classic, dynamic
from klein9b.klein.vram import KLEIN_9B, Job, host_estimate, host_vae_decode, host_vae_encode

NEAR = 0.03
META = torch.device("meta")
MEGAPIXEL = Size(1024, 1024)
CONFIG = {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 12288,
    "hidden_size": 4096, "mlp_ratio": 3.0, "num_heads": 32, "depth": 8, "depth_single_blocks": 24,
    "axes_dim": [32] * 4, "theta": 2000, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3],
    "patch_size": 1, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
    "default_ref_method": "index", "ref_index_scale": 10.0,
}  # fmt: skip


@pytest.fixture
def management(comfy_host, monkeypatch):
    """The host as on an NVIDIA card under Linux, with nothing loaded."""
    import comfy.model_management as management
    import comfy.ops

    monkeypatch.setattr(management, "current_loaded_models", [])
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", 0.0)
    monkeypatch.setattr(management, "NUM_STREAMS", 2)
    monkeypatch.setattr(management, "EXTRA_RESERVED_VRAM", 400 * MIB)
    monkeypatch.setattr(management, "pytorch_attention_flash_attention", lambda: True)
    monkeypatch.setattr(management, "soft_empty_cache", lambda *_: None)
    # Weights on meta are weights that no file had, which the host makes zeros of: 18 GB of them.
    monkeypatch.setattr(comfy.ops.disable_weight_init, "_zero_init_parameter", lambda *_: None)
    return management


@pytest.fixture
def patcher(management):
    return klein_patcher()


def klein_patcher():
    """A MODEL of Klein 9B in bfloat16 without a byte of weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    config = comfy.supported_models.Flux2(dict(CONFIG))
    config.set_inference_dtype(torch.bfloat16, None)
    config.custom_operations = comfy.ops.manual_cast
    model = comfy.model_base.Flux2(config, device=META)
    return comfy.model_patcher.ModelPatcher(model, load_device=META, offload_device=torch.device("cpu"))


def sized(management, monkeypatch, nbytes):
    def free(device=None, torch_free_too=False):
        left = nbytes - sum(one.model_loaded_memory() for one in management.current_loaded_models)
        return (left, 0) if torch_free_too else left

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "get_total_memory", lambda *_, **__: nbytes)


def conds_of(job):
    references = [torch.empty(1, 128, s.height // 16, s.width // 16, device=META) for s in job.references]
    one = {"reference_latents": references} if references else {}
    return {"positive": [one], "negative": [dict(one)]}


def noise_of(job):
    return [job.batch, 128, job.size.height // 16, job.size.width // 16]


def loaded_by_the_host(management, monkeypatch, patcher, job, gib):
    """Bytes of the model that are on the card when sampling begins."""
    import comfy.sampler_helpers

    sized(management, monkeypatch, gib * GIB)
    comfy.sampler_helpers.prepare_sampling(patcher, noise_of(job), conds_of(job), patcher.model_options)
    return patcher.loaded_size()


def plan(job, gib, model="flux-2-klein-9b"):
    files = Files(
        model_file(f"{model}.safetensors", None),
        encoder_file("qwen_3_8b_fp8mixed.safetensors", None),
        vae_file("flux2-vae.safetensors", None),
    )
    return Plan(files, job, Card("", gib * GIB, gib * GIB, 64 * GIB))


JOBS = {
    "text to image": Job(MEGAPIXEL),
    "one reference": Job(MEGAPIXEL, (MEGAPIXEL,)),
    "four references": Job(MEGAPIXEL, (MEGAPIXEL,) * 4),
    "a small batch": Job(Size(512, 512), batch=4),
    "a batch with references": Job(MEGAPIXEL, (MEGAPIXEL, Size(512, 768)), batch=2),
}


@pytest.mark.parametrize("gib", [8, 12, 16, 24, 32])
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_plan_agrees_with_what_the_host_keeps(management, monkeypatch, patcher, job, gib):
    kept = loaded_by_the_host(management, monkeypatch, patcher, job, gib)
    assert plan(job, gib).kept.resident == pytest.approx(kept, rel=NEAR, abs=20 * MIB)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("cache", [None, Storage.INT8])
def test_the_estimate_is_the_hosts(management, patcher, job, cache):
    """To which the cache is unknown: the conditioning carries the references all the same."""
    import comfy.sampler_helpers

    _, least = comfy.sampler_helpers.estimate_memory(patcher, noise_of(job), conds_of(job))
    job = dataclasses.replace(job, cache=cache)
    assert host_estimate(KLEIN_9B, job) == pytest.approx(least, rel=0.001)


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_what_is_reserved_by_option_is_not_kept(management, monkeypatch, patcher, gib):
    """--reserve-vram 2."""
    monkeypatch.setattr(management, "EXTRA_RESERVED_VRAM", 2 * GIB)
    kept = loaded_by_the_host(management, monkeypatch, patcher, Job(MEGAPIXEL), gib)
    there = plan(Job(MEGAPIXEL), gib)
    there = dataclasses.replace(there, card=dataclasses.replace(there.card, reserved=2 * GIB))
    assert there.kept.resident == pytest.approx(kept, rel=NEAR, abs=20 * MIB)
    if gib < 24:
        assert there.kept.resident < 0.95 * plan(Job(MEGAPIXEL), gib).kept.resident


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_without_copies_running_ahead_more_is_kept(management, monkeypatch, patcher, gib):
    """--disable-async-offload."""
    monkeypatch.setattr(management, "NUM_STREAMS", 0)
    kept = loaded_by_the_host(management, monkeypatch, patcher, Job(MEGAPIXEL), gib)
    there = plan(Job(MEGAPIXEL), gib)
    there = dataclasses.replace(there, card=dataclasses.replace(there.card, streams=0))
    assert there.kept.resident == pytest.approx(kept, rel=NEAR, abs=20 * MIB)


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_on_other_makers_cards_some_of_the_model_always_stays(management, monkeypatch, patcher, gib):
    monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", 0.4)
    job = JOBS["four references"]
    kept = loaded_by_the_host(management, monkeypatch, patcher, job, gib)
    there = plan(job, gib)
    there = dataclasses.replace(there, card=dataclasses.replace(there.card, least_share=0.4))
    assert there.kept.resident == pytest.approx(kept, rel=NEAR, abs=20 * MIB)


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
def test_the_cache_is_loaded_before_the_model(management, monkeypatch, patcher, gib):
    """Another model of its size stands in for it, beside the patcher as the cache is."""
    import comfy.model_patcher

    job = Job(MEGAPIXEL, (MEGAPIXEL,), cache=Storage.MODEL)
    there = plan(job, gib)
    layers = [torch.nn.Linear(4096, 4096, bias=False, device=META, dtype=torch.bfloat16) for _ in range(64)]
    beside = comfy.model_patcher.ModelPatcher(torch.nn.Sequential(*layers), META, torch.device("cpu"))
    assert beside.model_size() == there.cache == 2 * GIB
    patcher.set_additional_models("klein9b_reference_cache", [beside])
    kept = loaded_by_the_host(management, monkeypatch, patcher, job, gib)
    assert there.cache_on_card == pytest.approx(beside.loaded_size(), rel=NEAR, abs=20 * MIB)
    assert there.kept.resident == pytest.approx(kept, rel=NEAR, abs=20 * MIB)


def test_side_by_side_is_the_hosts_choice(management, monkeypatch, patcher):
    """Its memory_required for two rows and their references, times 1.5, against what is free then."""
    for gib in (8, 12, 16, 24, 32):
        for job in (dataclasses.replace(JOBS["text to image"], guided=True), Job(MEGAPIXEL, (MEGAPIXEL,), guided=True)):
            kept = loaded_by_the_host(management, monkeypatch, patcher, job, gib)
            shapes = {"ref_latents": [[1, 128, job.reference_tokens]] * 2} if job.references else {}
            wanted = patcher.model.memory_required([2 * job.batch, *noise_of(job)[1:]], cond_shapes=shapes)
            assert plan(job, gib).side_by_side == (wanted * 1.5 < gib * GIB - kept), (gib, job)


@pytest.mark.parametrize("width", [128, 96])
def test_what_is_set_aside_for_the_vae_is_the_hosts(comfy_host, width):
    import comfy.sd

    import standins

    vae, size = comfy.sd.VAE(sd=standins.vae()), Size(1024, 768)
    dtype = torch.bfloat16
    assert host_vae_encode(size) == vae.memory_used_encode((1, 3, size.height, size.width), dtype)
    assert host_vae_decode(size) == vae.memory_used_decode((1, 128, size.height // 16, size.width // 16), dtype)


class TestQuantised:
    """Layers in eight bits are one of bfloat16 beside themselves while they are brought over."""

    @pytest.fixture
    def patcher(self, management, monkeypatch):
        import comfy.model_patcher

        patcher = klein_patcher()
        patcher.model.manual_cast_dtype = torch.bfloat16
        for block in (*patcher.model.diffusion_model.double_blocks, *patcher.model.diffusion_model.single_blocks):
            for part in block.modules():
                if isinstance(part, torch.nn.Linear):
                    eighth = torch.empty(part.weight.shape, dtype=torch.float8_e4m3fn, device=META)
                    part.weight = torch.nn.Parameter(eighth, requires_grad=False)
        assert isinstance(patcher, comfy.model_patcher.ModelPatcher)
        return patcher

    @pytest.mark.parametrize("gib", [8, 12, 16, 24])
    @pytest.mark.parametrize("job", [JOBS["text to image"], JOBS["four references"]], ids=["none", "four"])
    def test_the_plan_agrees(self, management, monkeypatch, patcher, job, gib):
        kept = loaded_by_the_host(management, monkeypatch, patcher, job, gib)
        there = plan(job, gib, "flux-2-klein-9b-fp8")
        assert patcher.model_size() == pytest.approx(there.files.model.nbytes, rel=0.002)
        assert there.kept.resident == pytest.approx(kept, rel=NEAR, abs=20 * MIB)


class TestDynamic:
    CARD = Card("", 12 * GIB, 12 * GIB, 64 * GIB, dynamic=True)
    MODULES = (Module(GIB, GIB),) * 18

    def test_what_is_not_needed_is_weights(self):
        assert dynamic(self.MODULES, self.CARD, 2 * GIB).resident == 10 * GIB - self.CARD.reserved
        assert dynamic(self.MODULES, self.CARD, 20 * GIB).resident == 0

    def test_there_is_no_more_than_the_model(self):
        assert dynamic(self.MODULES[:4], self.CARD, 2 * GIB).resident == 4 * GIB


class TestWhatWouldBeWrong:
    """The agreement fails on it."""

    def off(self, management, monkeypatch, patcher, resident, job, gib):
        kept = loaded_by_the_host(management, monkeypatch, patcher, job, gib)
        return resident != pytest.approx(kept, rel=NEAR, abs=20 * MIB)

    def test_the_real_need_for_the_hosts_estimate(self, management, monkeypatch, patcher):
        there = plan(JOBS["four references"], 16)
        resident = classic(there.files.model.modules, there.card, there.activations).resident
        assert self.off(management, monkeypatch, patcher, resident, there.job, 16)

    def test_no_room_for_bringing_the_rest(self, management, monkeypatch, patcher):
        there = plan(Job(MEGAPIXEL), 12)
        card = dataclasses.replace(there.card, streams=0)
        resident = classic(there.files.model.modules, card, there.estimate).resident
        assert self.off(management, monkeypatch, patcher, resident, there.job, 12)

    def test_an_estimate_without_references(self, management, monkeypatch, patcher):
        there = plan(JOBS["one reference"], 12)
        estimate = host_estimate(KLEIN_9B, Job(MEGAPIXEL))
        resident = classic(there.files.model.modules, there.card, estimate).resident
        assert self.off(management, monkeypatch, patcher, resident, there.job, 12)
