"""Accelerated stand-ins where another pack has changed parts of the model that our blocks stand in for or count on."""

from types import MethodType

import pytest
import torch

from host.accelerating import TOLERANCE, Accelerated, is_stock, refs
from host.edits import cached, conditioning, edit, klein_model, normal, prompt, relative

pytestmark = pytest.mark.usefixtures("comfy_host")


@pytest.fixture
def model():
    return klein_model()


def halving(function):
    def halved(*args, **kwargs):
        out = function(*args, **kwargs)
        return tuple(one * 0.5 for one in out) if isinstance(out, tuple) else out * 0.5

    return halved


class TestPositionsByTheTimestep:
    """As DyPE has it: another embedder, told of every step before it."""

    class Scaled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.factor = inner, 1.0

        def forward(self, ids):
            return self.inner(ids * self.factor)

    @pytest.fixture
    def moved(self, model):
        clone, embedder = model.clone(), self.Scaled(model.model.diffusion_model.pe_embedder)
        clone.add_object_patch("diffusion_model.pe_embedder", embedder)

        def told(apply_model, args):
            embedder.factor = 1 + float(args["timestep"][0])
            return apply_model(args["input"], args["timestep"], **args["c"])

        clone.set_model_unet_function_wrapper(told)
        return clone

    def test_are_made_in_every_step(self, model, moved):
        got = is_stock(moved, Accelerated(moved), 1, steps=4)
        assert relative(got, edit(model, refs(1), steps=4)) > 100 * TOLERANCE

    def test_a_forward_hook_too(self, model):
        factors = iter((1.0, 1.5, 1.0, 1.5))
        embedder = model.model.diffusion_model.pe_embedder
        embedder.register_forward_pre_hook(lambda _, args: (args[0] * next(factors),))
        is_stock(model, Accelerated(model))


class TestForwardsOfOthers:
    """Our blocks do what the host's forwards do, and no more."""

    REASON = "another pack has changed the host's"

    def stock_from_the_start(self, model, ours):
        got, wanted = (edit(one, refs(1)) for one in (ours.model, model))
        assert torch.equal(got, wanted)
        assert list(ours.left) == ["every block"] and self.REASON in ours.left["every block"]

    def test_something_between_two_blocks(self, model):
        """As PuLID has it: a loop over the blocks of its own, which adds to the picture behind some."""
        diffusion_model = model.model.diffusion_model
        forward = type(diffusion_model).forward_orig

        def forward_orig(self, *args, **kwargs):
            adds = {"input": [], "output": [normal(1, 28, 256, seed=8)]}
            return forward(self, *args[:7], adds, **kwargs)

        plain = edit(model, refs(1))
        diffusion_model.forward_orig = MethodType(forward_orig, diffusion_model)
        ours = Accelerated(model)
        self.stock_from_the_start(model, ours)
        assert relative(edit(ours.model, refs(1)), plain) > 100 * TOLERANCE

    @pytest.mark.parametrize("name", ["DoubleStreamBlock", "SingleStreamBlock"])
    def test_blocks_forwards_in_their_class(self, model, monkeypatch, name):
        import comfy.ldm.flux.layers

        plain = edit(model, refs(1))
        block = getattr(comfy.ldm.flux.layers, name)
        monkeypatch.setattr(block, "forward", halving(block.forward))
        ours = Accelerated(model)
        self.stock_from_the_start(model, ours)
        assert relative(edit(ours.model, refs(1)), plain) > 100 * TOLERANCE

    def test_a_linear_layer_of_another_class(self, model):
        class Doubled(type(model.model.diffusion_model.single_blocks[-1].linear1)):
            def forward(self, *args, **kwargs):
                return 2 * super().forward(*args, **kwargs)

        plain = edit(model, refs(1))
        model.model.diffusion_model.single_blocks[-1].linear1.__class__ = Doubled
        got = is_stock(model, Accelerated(model), 1)
        assert relative(got, plain) > 100 * TOLERANCE


def test_an_attention_of_others_is_given_every_token(model):
    """Regional ones know the text's tokens from the picture's by their places."""

    def regional(func, q, k, v, heads, *args, **kwargs):
        q = torch.cat((q[:, :, :512], q[:, :, 512:] * 0.5), dim=2)
        return func(q, k, v, heads, *args, **kwargs)

    changed = model.clone()
    changed.model_options["transformer_options"]["optimized_attention_override"] = regional
    got = is_stock(changed, Accelerated(changed), 1)
    assert relative(got, edit(model, refs(1))) > 100 * TOLERANCE


class TestWrappersOfOthers:
    """What is around the diffusion model may change what it is given."""

    KIND = "diffusion_model"

    def wrapped(self, model):
        def controlled(
            executor, x, timestep, context, y=None, guidance=None, latents=None, control=None, *rest, **kwargs
        ):
            adds = {"input": [], "output": [normal(1, 28, 256, seed=8)]}
            return executor(x, timestep, context, y, guidance, latents, adds, *rest, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(self.KIND, "another node", controlled)
        return clone

    @pytest.mark.parametrize("comes", ["before", "behind"])
    @pytest.mark.parametrize("count", [0, 1])
    def test_change_it_before_ours(self, model, comes, count):
        wanted = self.wrapped(model)
        ours = Accelerated(wanted if comes == "before" else model)
        if comes == "behind":
            ours.model = self.wrapped(ours.model)
        got = is_stock(wanted, ours, count)
        assert relative(got, edit(model, refs(count))) > 100 * TOLERANCE
        assert ours.reports[0].accelerated == 4 * 2 and not ours.left

    def test_beside_the_cache(self, model):
        wanted = edit(cached(self.wrapped(model))[0], refs(2))
        ours = Accelerated(model)
        ours.model, shown = cached(self.wrapped(ours.model))
        assert relative(edit(ours.model, refs(2)), wanted) < TOLERANCE
        assert shown[-1].startswith("miss") and not ours.left


class TestTwoModels:
    def sampled(self, model, other, count=1):
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import Guider_DualModel
        from comfy_extras.nodes_flux import get_schedule

        guider, noise = Guider_DualModel(model, other), normal(1, 128, 4, 7, seed=3)
        guider.set_conds(conditioning(prompt(), refs(count)), conditioning(prompt(2), refs(count)))
        guider.set_cfg(3.0)
        with torch.inference_mode():
            return guider.sample(
                noise, torch.zeros_like(noise), sampler_object("euler"), get_schedule(2, 28), disable_pbar=True, seed=0
            )

    def test_the_other_is_accelerated_too(self, model):
        other = klein_model(seed=12)
        ours = Accelerated(model)
        got, wanted = (self.sampled(one, other) for one in (ours.model, model))
        assert relative(got, wanted) < TOLERANCE
        assert not ours.left and ours.reports[0].accelerated == 4 * 2 * 2

    def test_the_caches_keys_are_of_one_model(self, model, caplog):
        other = klein_model(seed=12)
        wanted = self.sampled(model, other)
        kept, shown = cached(model)
        assert relative(self.sampled(kept, other), wanted) < TOLERANCE
        assert shown[-1].startswith("stock path") and "second model" in shown[-1]


class TestRunsThatFail:
    def test_say_nothing_of_what_they_came_to(self, model):
        ours = Accelerated(model)

        def failing(apply_model, args):
            raise InterruptedError

        broken = ours.model.clone()
        broken.set_model_unet_function_wrapper(failing)
        with pytest.raises(InterruptedError):
            edit(broken)
        assert not ours.reports
        is_stock(model, ours)

    def test_leave_the_next_one_as_it_was(self, model):
        """Stopped between two single blocks, with the second's activation made."""
        ours, diffusion_model = Accelerated(model), model.model.diffusion_model
        wanted = edit(ours.model, refs(1))

        def stop(*_):
            raise InterruptedError

        handle = diffusion_model.single_blocks[1].linear2.register_forward_pre_hook(stop)
        with pytest.raises(InterruptedError):
            edit(ours.model, refs(1))
        handle.remove()
        assert torch.equal(edit(ours.model, refs(1)), wanted)
