"""What cannot fit is refused before anything is loaded; everything else runs as it did."""

import pytest
import torch

from host.edits import cached, conditioning, edit, klein_model, normal, prompt, reference
from klein9b.klein.framing import Size
from klein9b.klein.vram import KLEIN_9B, Dims, DoesNotFit, Job, forward_bytes, refuse_unfit_references

CARD = "NVIDIA GeForce RTX 3060"
SMALL = Dims(hidden=256, double_blocks=2, single_blocks=2)
PICTURE = Size(7 * 16, 4 * 16)
REFERENCE = Size(5 * 16, 6 * 16)
ALONE = forward_bytes(SMALL, Job(PICTURE))
TWO = forward_bytes(SMALL, Job(PICTURE, (REFERENCE, REFERENCE)))


@pytest.fixture
def model(comfy_host):
    from klein9b.nodes.host.fits import watch

    model = klein_model()
    watch(model)
    return model


@pytest.fixture
def card(monkeypatch):
    """Makes the check believe in a card with so many bytes; the host still runs on the processor."""

    def of(nbytes):
        monkeypatch.setattr("klein9b.nodes.host.fits._room", lambda device: (nbytes, CARD))

    return of


@pytest.fixture
def loads(comfy_host, monkeypatch):
    """How often the host is asked to load models."""
    import comfy.model_management as management

    asked, load = [], management.load_models_gpu
    monkeypatch.setattr(
        management, "load_models_gpu", lambda *args, **kwargs: asked.append(args) or load(*args, **kwargs)
    )
    return asked


def references(count):
    return [reference(i) for i in range(count)]


class TestTheSamplerPath:
    def test_the_smallest_card_on_which_it_runs(self, model, card):
        for count, least in ((0, ALONE), (2, TWO)):
            card(least)
            edit(model, references(count))
            card(least - 1)
            with pytest.raises(DoesNotFit):
                edit(model, references(count))

    def test_it_is_refused_before_anything_is_loaded(self, model, card, loads):
        card(ALONE - 1)
        with pytest.raises(DoesNotFit):
            edit(model)
        assert not loads
        card(ALONE)
        edit(model)
        assert loads

    def test_the_sentence_has_the_numbers_and_says_what_to_do(self, model, card):
        card(10 * 2**20)
        with pytest.raises(DoesNotFit) as refused:
            edit(model, references(2), noise=normal(8, 128, 4, 7, seed=3))
        said = str(refused.value)
        assert said.startswith(f"This cannot run on {CARD}: one step needs ") and "GiB" in said
        assert "the picture of 112x64 and 2 references are 600 tokens, 8 times" in said
        assert said.endswith("Choose a smaller picture or fewer or smaller references or a smaller batch.")

    def test_guidance_is_evaluated_in_turn_so_it_does_not_count(self, model, card):
        card(ALONE)
        edit(model, cfg=4.0)

    def test_a_batch_counts(self, model, card):
        card(2 * ALONE - 1)
        with pytest.raises(DoesNotFit):
            edit(model, noise=normal(2, 128, 4, 7, seed=3))

    def test_the_picture_is_the_same(self, model, card):
        card(TWO)
        assert torch.equal(edit(model, references(2)), edit(klein_model(), references(2)))

    def test_one_of_a_folder_is_refused_too(self, model, card):
        from klein9b.nodes.folder import Klein9BFolder
        from klein9b.nodes.host.list_progress import with_progress

        card(ALONE - 1)
        with pytest.raises(DoesNotFit):
            edit(with_progress(model, ["one"], Klein9BFolder, []))

    def test_a_clone_is_watched_once(self, model, card):
        card(ALONE - 1)
        with pytest.raises(DoesNotFit):
            edit(model.clone())


class TestWhatIsNotCertain:
    """Then it runs, on a card that could hold none of it."""

    @pytest.fixture(autouse=True)
    def tiny(self, card):
        card(1)

    def test_another_model(self):
        edit(klein_model(), references(1))

    def test_another_nodes_wrapper(self, model):
        import comfy.patcher_extension

        def through(executor, *args, **kwargs):
            return executor(*args, **kwargs)

        for kind in ("APPLY_MODEL", "DIFFUSION_MODEL", "OUTER_SAMPLE", "CALC_COND_BATCH"):
            changed = model.clone()
            wrapper = getattr(comfy.patcher_extension.WrappersMP, kind)
            changed.add_wrapper_with_key(wrapper, "another", through)
            edit(changed)

    def test_another_nodes_block(self, model):
        changed = model.clone()
        changed.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 0)
        edit(changed)

    def test_another_nodes_function_around_the_model(self, model):
        changed = model.clone()
        changed.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
        edit(changed)

    def test_another_nodes_attention(self, model):
        changed = model.clone()
        changed.model_options["transformer_options"]["optimized_attention_override"] = lambda func, *a, **k: func(
            *a, **k
        )
        edit(changed)

    def test_a_part_of_the_picture(self, model):
        edit(model, extra={"area": (2, 2, 0, 0)})

    def test_a_prompt_that_may_never_be_read(self, model):
        edit(model, extra={"start_percent": 0.0, "end_percent": 1.0})


class TestWithTheCache:
    def test_it_is_not_refused_where_the_stock_path_would_be(self, model, card):
        """Of many references the pass alone takes less than a step with all of them."""
        many = references(12)
        job = Job(PICTURE, (REFERENCE,) * 12)
        card(forward_bytes(SMALL, job) - 1)
        with pytest.raises(DoesNotFit):
            edit(model, many)
        edit(cached(model)[0], many)

    def test_it_does_not_step_aside_and_finds_what_it_kept(self, model, card):
        card(2**40)
        plain, watched = cached(klein_model())[0], cached(model)
        assert torch.equal(edit(watched[0], references(2)), edit(plain, references(2)))
        edit(cached(model)[0], references(2))
        assert "stock path" not in "".join(watched[1])

    def test_the_models_state_is_what_it_was(self, comfy_host):
        from klein9b.nodes.host.fits import watch
        from klein9b.nodes.host.model_state import model_state

        model = klein_model()
        before = model_state(model)
        watch(model)
        assert model_state(model) == before


class TestAnotherPacksWay:
    """Nothing is refused where a guider or a sampler of another pack may take the picture to pieces."""

    @pytest.mark.parametrize("foreign", ["guider", "sampler"])
    def test_of_sampling(self, model, card, monkeypatch, foreign):
        import comfy.samplers

        card(ALONE - 1)
        if foreign == "guider":
            monkeypatch.setattr(comfy.samplers.CFGGuider, "__module__", "tiles")
        else:
            monkeypatch.setattr("comfy.k_diffusion.sampling.sample_euler.__module__", "tiles")
        edit(model, references(0))


class TestTheRoom:
    @pytest.fixture
    def management(self, comfy_host, monkeypatch):
        """A card of 8 GiB beside 32 GiB of RAM, under Linux."""
        import comfy.model_management as management

        monkeypatch.setattr(management, "is_nvidia", lambda: True)
        monkeypatch.setattr(management, "WINDOWS", False)
        monkeypatch.setattr(management, "is_wsl", lambda: False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: CARD)
        sizes = {"cuda": 8 * 2**30, "cpu": 32 * 2**30}
        monkeypatch.setattr(management, "get_total_memory", lambda device: sizes[device.type])
        return management

    def room(self, kind="cuda"):
        from klein9b.nodes.host.fits import _room

        return _room(torch.device(kind))

    def test_all_of_the_card(self, management):
        assert self.room() == (8 * 2**30, CARD)

    def test_windows_spills_to_half_of_the_ram(self, management, monkeypatch):
        monkeypatch.setattr(management, "WINDOWS", True)
        assert self.room() == (24 * 2**30, CARD)

    def test_so_does_it_below_linux(self, management, monkeypatch):
        monkeypatch.setattr(management, "is_wsl", lambda: True)
        assert self.room() == (24 * 2**30, CARD)

    @pytest.mark.parametrize("kind", ["cpu", "mps", "xpu", "privateuseone"])
    def test_nobody_knows_of_other_devices(self, management, kind):
        assert self.room(kind) is None

    def test_nor_of_other_makers(self, management, monkeypatch):
        monkeypatch.setattr(management, "is_nvidia", lambda: False)
        assert self.room() is None


class TestReferences:
    def test_a_film_is_refused(self):
        with pytest.raises(DoesNotFit, match=r"100 references cannot run on .*: their 409,600 tokens need at least"):
            refuse_unfit_references(KLEIN_9B, [Size(1024, 1024)] * 100, 8 * 2**30, CARD)

    @pytest.mark.parametrize("count", [1, 10, 60])
    def test_what_some_way_of_running_may_hold_is_not(self, count):
        refuse_unfit_references(KLEIN_9B, [Size(1024, 1024)] * count, 8 * 2**30, CARD)

    def test_it_is_less_than_any_path_of_ours_takes(self):
        from klein9b.klein.vram import reference_pass_bytes

        job = Job(PICTURE, (Size(1024, 1024),) * 4)
        refuse_unfit_references(KLEIN_9B, job.references, reference_pass_bytes(KLEIN_9B, job) // 5, CARD)

    def test_the_node_refuses_before_it_encodes(self, comfy_host, card):
        from klein9b.nodes.references import Klein9BReferences

        class Vae:
            latent_channels = 128

        card(10 * 2**20)
        inputs = {"aspect_ratio": {"aspect_ratio": "match_input_image"}, "fit": "crop"}
        frames = {"image_1": torch.rand(40, 128, 128, 3)}
        with pytest.raises(DoesNotFit, match="40 references"):
            Klein9BReferences.execute(positive=conditioning(prompt(), ()), vae=Vae(), images=frames, **inputs)

    def test_without_references_nothing_is_asked(self, comfy_host, card):
        from klein9b.nodes.host.fits import refuse_references

        card(0)
        refuse_references([])


def test_on_a_processor_everything_runs(model):
    edit(model, references(2))


def test_a_host_without_these_names_runs_too(model, monkeypatch):
    import comfy.model_management as management

    monkeypatch.delattr(management, "is_device_cuda")
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    from klein9b.nodes.host.fits import _refuse_run, refuse_references
    from klein9b.nodes.host.newer_host import MissingFromHost

    class Guider:
        model_patcher, model_options = model, {}

    with pytest.raises(MissingFromHost, match="is_device_cuda"):
        _refuse_run(Guider, normal(1, 128, 4, 7, seed=3))
    refuse_references([REFERENCE])
