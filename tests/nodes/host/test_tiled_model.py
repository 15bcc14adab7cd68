"""Pictures painted in tiles in the real host: each tile is the run of that crop alone, and one tile is no tile."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from host import edits
from host.accelerating import Accelerated
from host.edits import cached, conditioning, klein_model, normal, prompt, reference, relative, store_of

pytestmark = pytest.mark.usefixtures("comfy_host")

PICTURE = (11, 13)
SAME_MATHS = 1e-6  # Another order of summing; 3e-7 was seen. What a tile must not see shows as 2e-3 and more.
BY_OTHER_KERNELS = 1e-5


@pytest.fixture(scope="module")
def model(comfy_host):
    return klein_model()


def tiling(largest=8, overlap=2):
    from klein9b.klein.tiles import Tiling

    return Tiling(largest, overlap)


def tiled(model, **sizes):
    from klein9b.nodes.host.tiled_model import with_tiles

    return with_tiles(model, tiling(**sizes))


def edit(model, references=(), **run):
    """By the schedule of one tile, also where the picture is the tile."""
    return edits.edit(model, references, tokens=56, **run)


def noise(batch=1):
    return normal(batch, 128, *PICTURE, seed=4)


def refs(others=1):
    """One over the picture, and others of sizes of their own."""
    return [reference(9, *PICTURE), *(reference(i, 4, 7) for i in range(others))]


def crops_alone(model, references, **run):
    """One step of every tile in a run of its own, merged."""
    tiles = tiling().tiles(*PICTURE)
    assert len(tiles.windows) == 4
    first, *others = references or [None]
    alone = [
        edit(model, [] if first is None else [window.of(first), *others], noise=window.of(noise()), steps=1, **run)
        for window in tiles.windows
    ]
    return tiles.merged(alone)


class Calls:
    """A model whose evaluations are written down, and answered with a constant where one is given."""

    def __init__(self, model, answer=None):
        self.seen = []
        self.model = model.clone()

        def wrapper(apply_model, args):
            references = args["c"].get("ref_latents") or ()
            options = args["c"]["transformer_options"]
            self.seen.append((args["input"].shape, [tuple(r.shape[-2:]) for r in references], options["uuids"]))
            if answer is not None:
                return torch.full_like(args["input"], answer)
            return apply_model(args["input"], args["timestep"], **args["c"])

        self.model.set_model_unet_function_wrapper(wrapper)


class TestOneTile:
    @pytest.mark.parametrize("count", [0, 1, 2])
    @pytest.mark.parametrize("cfg", [1.0, 4.0])
    def test_is_bit_equal_to_no_tiles(self, model, count, cfg):
        references = refs(1)[:count]
        ours, stock = (
            edit(m, references, noise=noise(), cfg=cfg) for m in (tiled(model, largest=13, overlap=2), model)
        )
        assert torch.equal(ours, stock)

    def test_may_have_a_first_reference_of_another_size(self, model):
        given = [reference(1)]
        assert torch.equal(*(edit(m, given, noise=noise()) for m in (tiled(model, largest=13), model)))


class TestATile:
    @pytest.mark.parametrize("others", [0, 2])
    def test_is_a_run_of_that_crop_alone(self, model, others):
        ours = edit(tiled(model), refs(others), noise=noise(), steps=1)
        assert relative(ours, crops_alone(model, refs(others))) < SAME_MATHS

    def test_without_references_too(self, model):
        assert relative(edit(tiled(model), noise=noise(), steps=1), crops_alone(model, [])) < SAME_MATHS

    def test_with_a_negative_prompt_too(self, model):
        ours = edit(tiled(model), refs(), noise=noise(), steps=1, cfg=4.0)
        assert relative(ours, crops_alone(model, refs(), cfg=4.0)) < SAME_MATHS

    def test_whole_references_or_a_whole_picture_would_be_seen(self, model):
        ours = edit(tiled(model), refs(), noise=noise(), steps=1)
        shifted = [reference(9, *PICTURE).roll(1, -1), *refs()[1:]]
        assert relative(edit(model, refs(), noise=noise(), steps=1), ours) > 1e-2
        assert relative(crops_alone(model, shifted), ours) > 1e-3

    def test_sees_its_part_of_the_first_reference_and_the_others_whole(self, model):
        calls = Calls(model, answer=0.0)
        edit(tiled(calls.model), refs(2), noise=noise(2), steps=2)
        shapes = [(tuple(shape), references) for shape, references, _ in calls.seen]
        assert shapes == [((2, 128, 7, 8), [(7, 8), (4, 7), (4, 7)])] * 4 * 2

    def test_has_a_name_of_its_own_and_keeps_it(self, model):
        """EasyCache and its like keep what they reuse by it."""
        calls = Calls(model, answer=0.0)
        edit(tiled(calls.model), refs(), noise=noise(), steps=2)
        names = [name for _, _, (name,) in calls.seen]
        assert names[:4] == names[4:] and len(set(names)) == 4

    def test_of_a_batch_is_that_of_a_single_picture(self, model):
        both = edit(tiled(model), refs(), noise=noise(2), steps=1)
        alone = edit(tiled(model), refs(), noise=noise(2)[1:], steps=1)
        assert relative(both[1:], alone) < BY_OTHER_KERNELS


class TestSeams:
    @pytest.mark.parametrize("steps", [1, 4])
    def test_a_constant_denoiser_leaves_none(self, model, steps):
        out = edit(tiled(Calls(model, answer=0.75).model), refs(), noise=noise(), steps=steps)
        assert float((out - 0.75).abs().max()) < 1e-6

    def test_a_mask_of_a_conditioning_is_cut_too(self, model):
        """Two prompts, each in one half: as in the picture, so in each tile."""
        left = torch.zeros(1, *PICTURE)
        left[:, :, :6] = 1
        masked = [
            [prompt(3), {"mask": left, "mask_strength": 1.0}],
            [prompt(3), {"mask": 1 - left, "mask_strength": 1.0}],
        ]
        plain = [[prompt(3), {}]]
        assert relative(self.sampled(model, masked), self.sampled(model, plain)) < BY_OTHER_KERNELS

    def sampled(self, model, positive):
        import comfy.samplers
        from comfy_extras.nodes_flux import get_schedule

        guider = comfy.samplers.CFGGuider(tiled(model))
        guider.set_conds(positive, conditioning(prompt(2), ()))
        guider.set_cfg(1.0)
        with torch.inference_mode():
            return guider.sample(
                noise(), torch.zeros(1, 128, *PICTURE), comfy.samplers.sampler_object("euler"), get_schedule(1, 143),
                disable_pbar=True, seed=0,
            )  # fmt: skip


class TestBeside:
    def test_the_reference_cache_before_and_behind(self, model):
        wanted = crops_alone(cached(klein_model())[0], refs())
        before, _ = cached(model)
        for ours in (tiled(before), cached(tiled(model))[0]):
            assert relative(edit(ours, refs(), noise=noise(), steps=1), wanted) < SAME_MATHS
        assert relative(edit(tiled(model), refs(), noise=noise(), steps=1), wanted) > 1e-3

    def test_the_cache_has_an_entry_for_each_tile_and_finds_it_in_every_step(self):
        ours, shown = cached(klein_model())
        edit(tiled(ours), refs(), noise=noise(), steps=3)
        assert len(store_of(ours).held()) == 4
        assert shown[-1].startswith("8 hit, 4 miss: 2 references")
        edit(tiled(ours), refs(), noise=normal(1, 128, *PICTURE, seed=5), steps=3)
        assert shown[-1].startswith("hit: 2 references")

    def test_no_tile_could_take_the_others_keys_of_the_second_reference(self):
        """References attend to each other, so that all but the first block's depend on the crop of the first."""
        ours, _ = cached(klein_model())
        edit(tiled(ours), refs(), noise=noise(), steps=1)
        store = store_of(ours)
        one, other = ([layer.tensors[0][:, :, 56:] for layer in store.find(k).layers] for k in store.held()[:2])
        assert one[0].shape[2] == 28 and relative(one[0], other[0]) < 1e-6
        assert all(relative(a, b) > 1e-2 for a, b in zip(one[1:], other[1:]))

    def test_tiles_that_look_alike_share_an_entry(self):
        ours, _ = cached(klein_model())
        edit(tiled(ours), [torch.zeros(1, 128, *PICTURE)], noise=noise(), steps=1)
        assert len(store_of(ours).held()) == 1

    def test_the_cache_keeps_the_first_tiles_where_the_budget_is_short(self):
        """So that the next run finds some; the longest unused would go just before they are asked for."""
        ours, _ = cached(klein_model())
        edit(tiled(ours), refs(), noise=noise(), steps=1)
        held = store_of(ours).held_bytes
        short, shown = cached(klein_model(), budget=held * 5 // 8)
        edit(tiled(short), refs(), noise=noise(), steps=2)
        assert shown[-1].startswith("4 hit, 4 miss") and len(store_of(short).held()) == 2
        edit(tiled(short), refs(), noise=noise(), steps=1)
        assert shown[-1].startswith("2 hit, 2 miss")

    def test_acceleration(self, model):
        for ours in (tiled(Accelerated(model).model), Accelerated(tiled(model)).model):
            out = edit(ours, refs(), noise=noise(), steps=2)
            assert relative(out, edit(tiled(model), refs(), noise=noise(), steps=2)) < BY_OTHER_KERNELS

    @pytest.mark.parametrize("behind_cache", [False, True])
    def test_a_strength_and_tokens_taken_out(self, model, behind_cache):
        from klein9b.klein.influence import AttentionSettings, Influence

        kept = torch.ones(PICTURE, dtype=torch.bool)
        kept[2:6, 5:9] = False
        ours = cached(model)[0] if behind_cache else model
        given = AttentionSettings({1: Influence(0.5, kept=kept), 2: Influence(3.0)})
        got = edit(tiled(ours), refs(), noise=noise(), steps=1, settings=given)
        windows = tiling().tiles(*PICTURE).windows
        alone = [
            edit(
                ours, [w.of(refs()[0]), refs()[1]], noise=w.of(noise()), steps=1,
                settings=AttentionSettings({1: Influence(0.5, kept=w.of(kept)), 2: Influence(3.0)}),
            )
            for w in windows
        ]  # fmt: skip
        assert relative(got, tiling().tiles(*PICTURE).merged(alone)) < BY_OTHER_KERNELS
        assert relative(edit(tiled(ours), refs(), noise=noise(), steps=1), got) > 1e-3

    def test_regions_are_those_of_the_picture(self, model):
        """A region that is the left half lets no tile on the right see its reference."""
        from klein9b.klein.influence import AttentionSettings, Box, Influence

        halved = AttentionSettings({2: Influence(1.0, where=Box(right=6 / 13))})
        without = AttentionSettings({2: Influence(0.0)})
        got, plain, never = (
            edit(tiled(model), refs(), noise=noise(), steps=1, settings=one) for one in (halved, None, without)
        )
        right = slice(8, None)  # where the right column of tiles paints alone
        assert relative(got[..., right], plain[..., right]) > 1e-3
        assert relative(got[..., :4], plain[..., :4]) < relative(got[..., right], plain[..., right])
        assert not torch.allclose(got, never)


class TestWhatCannotBeCut:
    def test_a_first_reference_of_another_size(self, model):
        from klein9b.nodes.host.tiled_model import Untileable

        said = r"picture's size, 208x176 pixels, but it has 80x96\. Scale it to 208x176"
        with pytest.raises(Untileable, match=said):
            edit(tiled(model), [reference(1)], noise=noise(), steps=1)

    def test_a_controlnet(self, model):
        from comfy.controlnet import ControlBase

        from klein9b.nodes.host.tiled_model import Untileable

        with pytest.raises(Untileable, match="cannot cut a ControlNet to its tiles"):
            edit(tiled(model), refs(), noise=noise(), steps=1, extra={"control": ControlBase()})

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("area", (4, 4, 0, 0), "set to an area"),
            ("gligen", ("position", None, []), "GLIGEN boxes"),
            ("attention_mask_img_shape", (4, 4), "an attention mask over the picture"),
        ],
    )
    def test_what_has_places_in_the_picture(self, name, value, words):
        from klein9b.nodes.host import tiled_model

        with pytest.raises(tiled_model.Untileable, match=words):
            tiled_model._refuse({name: value, "model_conds": {}})

    def test_the_text_encoders_own_mask_is_none(self, model):
        """The host reads it only beside the size of a picture."""
        given = {"attention_mask": torch.ones(1, 512)}
        edit(tiled(Calls(model, answer=0.0).model), refs(), noise=noise(), steps=1, extra=given)


class TestMemory:
    def test_the_host_makes_room_for_one_tile(self, model, monkeypatch):
        import comfy.sampler_helpers

        asked, estimate = [], comfy.sampler_helpers.estimate_memory
        monkeypatch.setattr(
            comfy.sampler_helpers, "estimate_memory", lambda *a: asked.append(estimate(*a)) or asked[-1]
        )
        edit(tiled(model), refs(), noise=noise(), steps=1)
        window = tiling().tiles(*PICTURE).windows[0]
        edit(model, [window.of(refs()[0]), refs()[1]], noise=window.of(noise()), steps=1)
        assert asked[0] == asked[1]

    def test_the_cache_asks_for_one_tile(self):
        from klein9b.nodes.host.cache_run import reference_tokens

        sets = {"positive": [{"reference_latents": refs(1)}], "negative": [{}]}
        assert reference_tokens(sets, tiling().tiles(*PICTURE)) == 7 * 8 + 4 * 7

    def test_nothing_is_left_behind(self):
        ours = tiled(klein_model())
        edit(ours, refs(), noise=noise(), steps=1)
        gone = weakref.ref(ours.model)
        del ours
        gc.collect()
        assert gone() is None


def test_the_model_that_came_in_stays_as_it_was(model):
    before = edit(model, refs(), noise=noise(), steps=1)
    tiled(model)
    assert torch.equal(edit(model, refs(), noise=noise(), steps=1), before)
    assert "klein9b_tiling" not in model.model_options["transformer_options"]


def test_a_later_tiling_replaces_an_earlier_one(model):
    calls = Calls(model, answer=0.0)
    edit(tiled(tiled(calls.model, largest=4, overlap=1)), refs(), noise=noise(), steps=1)
    assert len(calls.seen) == 4


def test_a_cancelled_run_stops_at_the_next_tile(model):
    import comfy.model_management as management

    calls = Calls(model, answer=0.0)
    seen = calls.seen

    def cancelling(apply_model, args):
        seen.append(1)
        management.interrupt_current_processing()
        return torch.zeros_like(args["input"])

    calls.model.set_model_unet_function_wrapper(cancelling)
    with pytest.raises(management.InterruptProcessingException):
        edit(tiled(calls.model), refs(), noise=noise(), steps=1)
    assert len(seen) == 1
