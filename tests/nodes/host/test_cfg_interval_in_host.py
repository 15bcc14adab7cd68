"""cfg in part of the schedule, in the real host: which steps pay for a negative prompt, and what comes out."""

import logging
import math

import pytest
import torch

from host.edits import cached, conditioning, edit, klein_model, normal, prompt, reference

pytestmark = pytest.mark.usefixtures("comfy_host")

STEPS, CFG = 6, 4.0
OUT_OF_ORDER = [(0.6, 0.5), (1, 0)]
EMPTY = [(0, 0), (0.5, 0.5), (1, 1)]


@pytest.fixture(scope="module")
def model(comfy_host):
    """One for all tests: nothing here may leave anything on it."""
    return klein_model(blocks=1)


def limited(model, start, end):
    from klein9b.nodes.host.cfg_interval import with_cfg_interval

    return with_cfg_interval(model, start, end)


class Counted:
    """The model's evaluations, as (sigma, rows): two rows where the negative prompt is evaluated too."""

    def __init__(self, model):
        import comfy.patcher_extension

        self.model, self.evaluations = model.clone(), []
        self.model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "count", self.count)

    def count(self, executor, x, t, *args, **kwargs):
        self.evaluations.append((float(t[0]), len(x)))
        return executor(x, t, *args, **kwargs)

    @property
    def rows(self):
        """By sigma, as one prompt may be evaluated apart from the other."""
        sigmas = dict.fromkeys(sigma for sigma, _ in self.evaluations)
        return [sum(rows for at, rows in self.evaluations if at == sigma) for sigma in sigmas]


def run(model, cfg=CFG, **options):
    """A picture and the rows of its evaluations."""
    counted = Counted(model)
    return edit(counted.model, cfg=cfg, steps=STEPS, **options), counted.rows


def res_2s(**options):
    import comfy.samplers

    from klein9b.nodes.sampler import klein9b_res_2s

    return comfy.samplers.KSAMPLER(klein9b_res_2s, options)


def schedule():
    from comfy_extras.nodes_flux import get_schedule

    return get_schedule(STEPS, 4 * 7).tolist()


def fraction_between(model, step):
    """Between the sigmas of a step and of the one before."""
    at = model.get_model_object("model_sampling").percent_to_sigma
    middle = (schedule()[step - 1] + schedule()[step]) / 2
    return min((fraction / 1000 for fraction in range(1001)), key=lambda fraction: abs(at(fraction) - middle))


def steps(model, first, last):
    """An interval that holds the steps from first to last, counted from 0."""
    return fraction_between(model, first), fraction_between(model, last + 1)


def test_the_whole_schedule_leaves_the_model_as_it_is(model):
    assert limited(model, 0, 1) is model


@pytest.mark.parametrize(("sampler", "interval"), [*zip(["euler", "dpmpp_2m", "res_2s"], EMPTY)], ids=str)
def test_an_empty_interval_is_cfg_1_and_costs_as_much(model, sampler, interval):
    options = {"sampler": res_2s() if sampler == "res_2s" else sampler}
    (picture, rows), (plain, plain_rows) = run(limited(model, *interval), **options), run(model, 1.0, **options)
    assert torch.equal(picture, plain) and rows == plain_rows == [1] * len(rows)
    assert not torch.equal(picture, run(model, **options)[0])


def test_cfg_acts_in_the_steps_inside_alone(model):
    picture, rows = run(limited(model, *steps(model, 1, 3)))
    assert rows == [1, 2, 2, 2, 1, 1]
    assert not torch.equal(picture, run(model)[0]) and not torch.equal(picture, run(model, 1.0)[0])


@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 3), (4, 5)])
def test_the_picture_is_the_one_of_the_hosts_cfg_override(model, first, last):
    """With euler, whose every evaluation begins a step, both judge alike."""
    from comfy_extras.nodes_custom_sampler import CFGOverride

    start = fraction_between(model, first) if first else 0.0
    end = fraction_between(model, last + 1) if last < STEPS - 1 else 1.0
    stock = model
    for off in ([(0.0, start)] if start else []) + ([(end, 1.0)] if end < 1 else []):
        stock = CFGOverride.execute(stock, 1.0, *off).args[0]
    assert torch.equal(run(limited(model, start, end))[0], run(stock)[0])


@pytest.mark.parametrize("final_step", ["sigma_min", "denoise", "extrapolate"])
def test_both_evaluations_of_a_res_2s_step_are_judged_alike(model, final_step):
    sampler = res_2s(final_step=final_step)
    _, rows = run(limited(model, *steps(model, 2, 3)), sampler=sampler)
    assert rows[:10] == [1, 1, 1, 1, 2, 2, 2, 2, 1, 1] and set(rows[10:]) == {1}
    _, rows = run(limited(model, fraction_between(model, 5), 1), sampler=sampler)
    assert set(rows[:10]) == {1} and set(rows[10:]) == {2}


def test_an_interval_of_part_of_the_steps_is_the_same_in_a_run_cut_in_two(model):
    """A fraction is one of the model's schedule, not of the sigmas that a run is given."""
    import comfy.samplers

    def sample(counted, sigmas):
        guider = comfy.samplers.CFGGuider(counted.model)
        guider.set_conds(conditioning(prompt(), ()), conditioning(prompt(2), ()))
        guider.set_cfg(CFG)
        noise = normal(1, 128, 4, 7, seed=3)
        sampler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor(sigmas), disable_pbar=True, seed=0)

    counted = Counted(limited(model, *steps(model, 1, 3)))
    for part in (schedule()[:3], schedule()[2:]):
        sample(counted, part)
    assert counted.rows == [1, 2, 2, 2, 1, 1]


def test_it_is_judged_by_the_sigmas_of_the_model_that_runs(model):
    """A later node may shift them."""
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    inner = limited(model, *steps(model, 1, 3))
    shifted = ModelSamplingFlux().patch(inner, 6.0, 6.0, 1024, 1024)[0]
    assert run(shifted)[1] != [1, 2, 2, 2, 1, 1]
    (first,) = ModelSamplingFlux().patch(model, 6.0, 6.0, 1024, 1024)
    assert run(shifted)[1] == run(limited(first, *steps(model, 1, 3)))[1]


class TestOtherNodes:
    """They see cfg 1 and no negative prompt in a step outside, as they do where cfg is 1."""

    def by_hand(self, model, inside):
        """The host's guider, told its cfg before each step."""
        import comfy.samplers

        class ByHand(comfy.samplers.CFGGuider):
            def predict_noise(self, x, timestep, *args, **kwargs):
                self.cfg = CFG if schedule().index(float(timestep[0])) in inside else 1.0
                return super().predict_noise(x, timestep, *args, **kwargs)

        guider = ByHand(model)
        guider.set_conds(conditioning(prompt(), ()), conditioning(prompt(2), ()))
        noise = normal(1, 128, 4, 7, seed=3)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor(schedule())
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)

    def pictures(self, model):
        return edit(limited(model, *steps(model, 1, 3)), cfg=CFG, steps=STEPS), self.by_hand(model, {1, 2, 3})

    def test_none(self, model):
        assert torch.equal(*self.pictures(model))

    def test_a_cfg_function(self, model):
        seen, model = [], model.clone()

        def rescaled(args):
            seen.append(args["cond_scale"])
            return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] * 0.9

        model.set_model_sampler_cfg_function(rescaled)
        assert torch.equal(*self.pictures(model))
        assert seen[:STEPS] == [1.0, CFG, CFG, CFG, 1.0, 1.0]

    def test_functions_before_and_after_cfg(self, model):
        seen, model = [], model.clone()
        model.set_model_sampler_pre_cfg_function(lambda args: [args["conds_out"][0] * 0.9, args["conds_out"][1]])
        model.set_model_sampler_post_cfg_function(
            lambda args: seen.append((args["cond_scale"], args["uncond"] is None)) or args["denoised"] * 1.1
        )
        assert torch.equal(*self.pictures(model))
        assert seen[:STEPS] == [(1.0, True), *[(CFG, False)] * 3, *[(1.0, True)] * 2]

    def test_one_that_wants_the_negative_prompt_at_cfg_1_too(self, model):
        model = model.clone()
        model.disable_model_cfg1_optimization()
        assert torch.equal(*self.pictures(model))
        assert run(limited(model, 0.5, 0.5))[1] == run(model, 1.0)[1] == [2] * STEPS

    def test_skip_layer_guidance_of_the_negative_prompt(self, model):
        from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

        model = SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "0", "0").args[0]
        assert torch.equal(*self.pictures(model))

    def test_a_cfg_override_nearer_the_sampler_wins(self, model):
        from comfy_extras.nodes_custom_sampler import CFGOverride

        nearer = CFGOverride.execute(limited(model, 0, 0), 3.0, 0.0, 1.0).args[0]
        assert torch.equal(edit(nearer, cfg=CFG, steps=STEPS), edit(model, cfg=3.0, steps=STEPS))

    def test_the_reference_cache(self, model):
        references = [reference(1)]
        ours, _ = cached(limited(model, *steps(model, 1, 3)))
        other = limited(cached(model)[0], *steps(model, 1, 3))
        pictures = [edit(one, references, cfg=CFG, steps=STEPS) for one in (ours, other)]
        assert torch.equal(*pictures)
        assert not torch.equal(pictures[0], edit(ours, references, cfg=1.0, steps=STEPS))
        empty = limited(cached(model)[0], 0, 0)
        assert torch.equal(edit(empty, references, cfg=CFG), edit(cached(model)[0], references, cfg=1.0))


class TestNothingIsLeftBehind:
    def test_two_intervals_of_one_model_and_the_model_itself(self, model):
        plain, _ = run(model)
        early, late = limited(model, *steps(model, 1, 2)), limited(model, *steps(model, 3, 4))
        rows = [run(one)[1] for one in (early, late, model, late, early)]
        assert rows == [[1, 2, 2, 1, 1, 1], [1, 1, 1, 2, 2, 1], [2] * 6, [1, 1, 1, 2, 2, 1], [1, 2, 2, 1, 1, 1]]
        assert torch.equal(run(model)[0], plain)

    def test_runs_within_each_other(self, model):
        """Each step of one run holds a whole run of another model, interval and cfg."""
        inner = limited(klein_model(seed=12, blocks=1), *steps(model, 3, 4))
        outer, rows = limited(model, *steps(model, 1, 2)).clone(), []

        def sample_inside(args):
            rows.append(run(inner, 2.0)[1])
            return args["denoised"]

        wanted, _ = run(outer)
        outer.set_model_sampler_post_cfg_function(sample_inside)
        picture, outer_rows = run(outer)
        assert torch.equal(picture, wanted) and outer_rows == [1, 2, 2, 1, 1, 1]
        assert rows == [[1, 1, 1, 2, 2, 1]] * STEPS

    def test_a_second_interval_narrows_the_first(self, model):
        both = limited(limited(model, *steps(model, 1, 3)), *steps(model, 2, 4))
        assert run(both)[1] == [1, 1, 2, 2, 1, 1]

    def test_a_guider_gets_its_cfg_back_when_a_step_fails(self, model):
        import comfy.samplers

        failing = limited(model, 0, 0).clone()
        failing.set_model_sampler_post_cfg_function(lambda args: 1 / 0)
        guider = comfy.samplers.CFGGuider(failing)
        guider.set_conds(conditioning(prompt(), ()), conditioning(prompt(2), ()))
        guider.set_cfg(CFG)
        noise = normal(1, 128, 4, 7, seed=3)
        sampler = comfy.samplers.sampler_object("euler")
        with pytest.raises(ZeroDivisionError):
            guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor(schedule()), disable_pbar=True, seed=0)
        assert guider.cfg == CFG


class TestGuiders:
    def sampled(self, node, model, *args, **options):
        """By a node that makes a guider of a model: its picture and the rows of its evaluations."""
        import comfy.samplers

        counted = Counted(model)
        guider = node.execute(counted.model, *args, **options).args[0]
        noise = normal(1, 128, 4, 7, seed=3)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor(schedule())
        with torch.inference_mode():
            picture = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
        return picture, counted.rows

    def conds(self, count):
        return [conditioning(prompt(seed), ()) for seed in range(1, count + 1)]

    def test_basic(self, model, caplog):
        from comfy_extras.nodes_custom_sampler import BasicGuider

        (picture, rows), (plain, _) = (
            self.sampled(BasicGuider, one, *self.conds(1)) for one in (limited(model, 0.2, 0.6), model)
        )
        assert torch.equal(picture, plain) and rows == [1] * STEPS
        assert "cfg interval" not in caplog.text

    @pytest.mark.parametrize("style", ["regular", "nested"])
    def test_dual_cfg_stays_as_it_is_and_the_log_says_so(self, model, caplog, style):
        from comfy_extras.nodes_custom_sampler import DualCFGGuider

        caplog.set_level(logging.WARNING)
        (picture, rows), (plain, plain_rows) = (
            self.sampled(DualCFGGuider, one, *self.conds(3), 3.0, 2.0, style) for one in (limited(model, 0, 0), model)
        )
        assert torch.equal(picture, plain) and rows == plain_rows == [3] * STEPS
        (line,) = [line for line in caplog.messages if "cfg interval" in line]
        assert "Guider_DualCFG, has no single cfg" in line

    def test_perp_neg_has_cfg_1_outside(self, model):
        from comfy_extras.nodes_perpneg import PerpNegGuider

        def sampled(model, cfg):
            return self.sampled(PerpNegGuider, model, *self.conds(3), cfg, 0.5)[0]

        assert torch.equal(sampled(limited(model, 0, 0), CFG), sampled(model, 1.0))
        assert not torch.equal(sampled(model, CFG), sampled(model, 1.0))

    def test_a_second_model_for_the_negative_prompt_rests_outside(self, model):
        from comfy_extras.nodes_custom_sampler import DualModelGuider

        positive, negative = self.conds(2)
        prompts = {"positive": positive, "negative": negative, "cfg": CFG}
        other = klein_model(seed=12, blocks=1)
        _, rows = self.sampled(DualModelGuider, limited(model, *steps(model, 1, 3)), model_negative=other, **prompts)
        assert rows == [1, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(("start", "end"), [*OUT_OF_ORDER, (math.nan, 1), (0, math.nan), (-0.5, 1), (0, 2)])
def test_bad_input_is_a_sentence(model, start, end):
    with pytest.raises(ValueError, match=r"The cfg interval starts at|of the cfg interval is"):
        limited(model, start, end)
