"""Klein 9B Inpaint in the real host, with a VAE that counts: what is hidden, sampled from, said and put back."""

import math

import numpy as np
import pytest
import torch
from test_references_node import CountingVae, photo, prompt, references

pytestmark = pytest.mark.usefixtures("comfy_host")

WHOLE = {"area": "whole picture"}


def around(context=0.5):
    return {"area": "around the mask", "context": context}


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.inpaint import Klein9BInpaint

    return Klein9BInpaint


@pytest.fixture
def shown(monkeypatch, node):
    texts = []
    monkeypatch.setattr("klein9b.nodes.inpaint.show_text", lambda _, text: texts.append(text))
    return texts


def square(side=256, start=64, stop=128):
    mask = torch.zeros(1, side, side)
    mask[:, start:stop, start:stop] = 1
    return mask


def run(node, vae=None, *, image=None, mask=None, positive=None, area=WHOLE, **settings):
    defaults = {"megapixels": 1.0, "feather": 0, "strength": 1.0, "show_source": False}
    sides = dict.fromkeys(("left", "top", "right", "bottom"), 0)
    return node.execute(
        positive=positive or prompt(),
        vae=vae or CountingVae(),
        image=photo("astronaut") if image is None else image,
        mask=mask,
        area=area,
        **defaults | sides | settings,
    ).args


def kept_of(conditioning, image=1):
    from klein9b.nodes.host.attention_settings import settings_on

    settings = settings_on(conditioning)
    return settings[-1].influences[image].kept if settings else None


def where_of(conditioning, number=1):
    from klein9b.nodes.host.attention_settings import settings_on

    return settings_on(conditioning)[-1].influences[number].where


class TestConditioning:
    def test_the_photograph_is_image_1_without_what_is_marked(self, node):
        positive, negative, latent, _ = run(node, mask=square())
        wanted = torch.ones(16, 16, dtype=torch.bool)
        wanted[4:8, 4:8] = False
        assert torch.equal(kept_of(positive), wanted)
        assert positive[0][1]["control"] is negative[0][1]["control"] and not negative[0][0].any()
        assert torch.equal(latent["noise_mask"][0, 0], (~wanted).float())

    def test_a_cell_that_is_touched_is_hidden_and_painted_whole(self, node):
        positive, _, latent, _ = run(node, mask=square(start=63, stop=128))
        assert not kept_of(positive)[3:8, 3:8].any() and kept_of(positive).sum() == 256 - 25
        assert set(latent["noise_mask"].unique().tolist()) == {0, 1}

    def test_further_references_come_behind(self, node):
        images = {"image_3": photo("astronaut", 128), "image_2": photo("coffee")}
        positive, negative, *_ = run(node, mask=square(), images=images)
        assert [tuple(one.shape[2:]) for one in references(positive)] == [(16, 16), (10, 16), (8, 8)]
        assert len(references(negative)) == 3

    def test_references_that_were_there_stay_in_front(self, node):
        positive = [[torch.ones(1, 8, 16), {"reference_latents": [torch.zeros(1, 128, 4, 4)]}]]
        joined, *_ = run(node, mask=square(), positive=positive)
        assert len(references(joined)) == 2 and kept_of(joined, 2).shape == (16, 16)

    @pytest.mark.parametrize("had", [0, 2])
    def test_a_negative_with_other_references_hides_the_same(self, node, had):
        """The photograph has another number there."""
        positive = [[torch.ones(1, 8, 16), {"reference_latents": [torch.zeros(1, 128, 4, 4)]}]]
        negative = [[torch.ones(1, 8, 16), {"reference_latents": [torch.zeros(1, 128, 4, 4)] * had}]]
        joined, other, *_ = run(node, mask=square(), positive=positive, negative=negative)
        assert torch.equal(kept_of(joined, 2), kept_of(other, had + 1))

    def test_masks_on_further_references_still_fit(self, node):
        """Klein 9B Reference Strength knows how they were cropped."""
        from klein9b.nodes.reference_strength import Klein9BReferenceStrength

        positive, negative, *_ = run(node, mask=square(), images={"image_2": photo("coffee")})
        mask = torch.zeros(1, 171, 256)
        mask[:, :12] = mask[:, 150:] = 1
        positive, _ = Klein9BReferenceStrength.execute(positive, 2, 1.0, 0.0, 1.0, negative, image_mask=mask).args
        assert kept_of(positive, 2).all(dim=1).nonzero().flatten().tolist() == [9]

    @pytest.mark.parametrize(
        ("sides", "grid", "wanted"),
        [
            ({"area": around(0), "megapixels": 0.004}, (4, 4), (slice(0, 4), slice(0, 2))),
            ({"left": 64}, (16, 20), (slice(0, 16), slice(0, 12))),
        ],
        ids=["a window", "grown"],
    )
    def test_masks_on_the_photograph_are_cut_as_it_was(self, node, sides, grid, wanted):
        """The window is rows and columns 63 to 193; the mask the photograph's left half, and beyond its left side."""
        from klein9b.nodes.reference_strength import Klein9BReferenceStrength

        small = square(256, 127, 129)
        positive, negative, *_ = run(node, mask=small, show_source=True, **sides)
        mask = torch.zeros(1, 256, 256)
        mask[:, :, :128] = 1
        positive, _ = Klein9BReferenceStrength.execute(positive, 1, 1.0, 0.0, 1.0, negative, image_mask=mask).args
        kept = torch.zeros(grid, dtype=torch.bool)
        kept[wanted] = True
        told, _ = Klein9BReferenceStrength.execute(positive, 1, 1.0, 0.0, 1.0, negative, picture_mask=mask).args
        assert torch.equal(where_of(told).on_grid(*grid) > 0.5, kept)
        assert torch.equal(kept_of(positive), kept)
        with pytest.raises(ValueError, match="image_mask is 64x64 pixels, but the image is 256x256"):
            Klein9BReferenceStrength.execute(positive, 1, 1.0, 0.0, 1.0, negative, image_mask=mask[:, :64, :64])

    def test_the_source_shown_is_whole(self, node):
        positive, _, latent, _ = run(node, mask=square(start=56), show_source=True)
        assert kept_of(positive) is None and "control" not in positive[0][1]
        assert latent["noise_mask"][0, 0, 3, 3:8].tolist() == [0.25, 0.5, 0.5, 0.5, 0.5], "antialiased"

    def test_inputs_are_not_mutated(self, node):
        asked, image, mask = prompt(), photo("astronaut"), square()
        before = image.clone(), mask.clone()
        run(node, image=image, mask=mask, positive=asked, feather=8)
        assert asked[0][1] == {"pooled_output": None}
        assert torch.equal(image, before[0]) and torch.equal(mask, before[1])


class TestWhatIsEncoded:
    def sampled_and_seen(self, node, **settings):
        positive, _, latent, _ = run(node, mask=square(), **settings)
        return latent["samples"], references(positive)[0]

    def test_from_pure_noise_it_starts_from_what_is_seen(self, node):
        vae = CountingVae()
        samples, seen = self.sampled_and_seen(node, vae=vae)
        assert torch.equal(samples, seen) and len(vae.calls) == 1

    def test_below_it_starts_from_the_photograph(self, node):
        samples, seen = self.sampled_and_seen(node, strength=0.6)
        whole, _ = self.sampled_and_seen(node, show_source=True)
        assert torch.equal(samples, whole) and not torch.equal(samples, seen)
        assert torch.equal(samples[..., 9:, :], seen[..., 9:, :])

    def test_what_is_hidden_is_in_neither(self, node):
        changed = photo("astronaut")
        changed[:, 64:128, 64:128] = 0
        for one, other in zip(self.sampled_and_seen(node), self.sampled_and_seen(node, image=changed)):
            assert torch.equal(one, other)

    def test_a_small_mask_gets_all_of_the_resolution(self, node):
        vae = CountingVae()
        *_, latent, _ = run(node, vae, image=photo("astronaut", 512), mask=square(512, 200, 220), area=around(0))
        assert vae.calls == [(1, 1024, 1024, 3)] and latent["samples"].shape[2:] == (64, 64)

    def test_a_changed_prompt_encodes_nothing(self, node):
        vae = CountingVae()
        run(node, vae, mask=square(), strength=0.5)
        run(node, vae, mask=square(), strength=0.5, positive=prompt(2.0))
        assert len(vae.calls) == 2

    def test_another_models_vae_is_refused(self, node):
        vae = CountingVae()
        vae.latent_channels = 16
        with pytest.raises(ValueError, match="latents of 16 channels"):
            run(node, vae, mask=square())


class TestStrength:
    def sigmas(self, latent, **settings):
        from klein9b.nodes.scheduler import Klein9BScheduler

        given = {"steps": 2, "denoise": 1.0, "shift": {"shift": "flux2"}}
        (sigmas,) = Klein9BScheduler.execute(latent, **given | settings).args
        return sigmas

    def test_the_scheduler_multiplies_its_denoise_by_it(self, node, shown):
        *_, half, _ = run(node, mask=square(), strength=0.5)
        *_, whole, _ = run(node, mask=square())
        assert torch.equal(self.sigmas(half), self.sigmas(whole, denoise=0.5))
        assert torch.equal(self.sigmas(half, denoise=0.5, steps=1), self.sigmas(whole, denoise=0.25, steps=1))
        assert not torch.equal(self.sigmas(half), self.sigmas(whole))
        assert shown == [
            "Strength 0.5: connect the latent to Klein 9B Scheduler, which multiplies its denoise by it.",
            "",
        ]

    def test_at_0_there_is_nothing_to_sample(self, node):
        *_, latent, _ = run(node, mask=square(), strength=0.0)
        assert not len(self.sigmas(latent))


class TestMask:
    def test_several_count_together(self, node):
        masks = torch.cat([square(start=0, stop=16), square(start=240, stop=256)])
        kept = kept_of(run(node, mask=masks)[0])
        assert not kept[0, 0] and not kept[15, 15] and kept.sum() == 254

    def test_one_without_a_batch_is_one(self, node):
        assert kept_of(run(node, mask=square()[0])[0]).sum() == 240

    def test_one_of_the_same_shape_is_scaled(self, node):
        kept = kept_of(run(node, mask=square(512, 128, 256))[0])
        assert not kept[4:8, 4:8].any() and kept[:3].all() and kept[9:].all()

    def test_a_full_one_is_warned_of(self, node, shown):
        positive, *_ = run(node, mask=torch.ones(1, 256, 256))
        assert not kept_of(positive).any()
        assert shown[-1].startswith("Nothing of the photograph is left to be seen")
        run(node, mask=torch.ones(1, 256, 256), show_source=True)
        assert shown[-1] == ""

    @pytest.mark.parametrize("mask", [None, torch.zeros(1, 64, 64)], ids=["none", "of LoadImage"])
    def test_an_empty_one_is_none(self, node, mask):
        with pytest.raises(ValueError, match="Nothing is marked to be painted anew"):
            run(node, mask=mask)
        *_, latent, frame = run(node, mask=mask, right=64)
        assert latent["samples"].shape[2:] == (16, 20) and frame.image.shape == (256, 320, 3)

    @pytest.mark.parametrize(
        ("mask", "words"),
        [
            (torch.ones(1, 64, 100), "mask is 100x64 pixels and the image 256x256"),
            (torch.full((1, 256, 256), math.nan), "mask holds NaN"),
            (torch.ones(1, 1, 256, 256), r"Expected masks shaped \[masks, height, width\], got \[1, 1, 256, 256\]"),
        ],
    )
    def test_bad_ones_are_told(self, node, mask, words):
        with pytest.raises(ValueError, match=words):
            run(node, mask=mask)


class TestCast:
    def test_places_of_a_window_are_told(self, node, shown):
        from klein9b.klein.influence import AttentionSettings, Box, Cast
        from klein9b.nodes.host.attention_settings import with_settings

        cast = AttentionSettings(casts=(Cast(((0, 4),), 8, frozenset({2}), Box(right=0.5)),))
        (positive,) = with_settings(cast, prompt())
        for asked, area in ((positive, around(0)), (positive, WHOLE), (prompt(), around(0))):
            run(node, mask=square(), positive=asked, area=area)
        assert [text.startswith("The places of Klein 9B Cast are those of the window") for text in shown] == [1, 0, 0]


class TestImage:
    @pytest.mark.parametrize(
        ("image", "words"),
        [
            (torch.zeros(2, 256, 256, 3), "^image: Expected one photograph, got a batch of 2"),
            (torch.zeros(1, 40, 100, 3), "^image: The image is 100x40 pixels; FLUX.2 needs at least 64"),
            (torch.full((1, 64, 64, 3), math.nan), "^image: The image holds NaN"),
        ],
    )
    def test_bad_ones_are_told(self, node, image, words):
        with pytest.raises(ValueError, match=words):
            run(node, image=image, mask=torch.ones(1, *image.shape[1:3]))

    def test_a_further_one_is_named(self, node):
        with pytest.raises(ValueError, match="^image_2: The image is 640x64 pixels, an aspect of 10.0:1"):
            run(node, mask=square(), images={"image_2": torch.zeros(1, 64, 640, 3)})

    def test_a_prompt_that_names_a_missing_one_is_told(self, node, shown):
        from klein9b.nodes.host.prompt_text import with_prompt_text

        asked = with_prompt_text(prompt(), "the cup of image 2 and the hat of image 3")
        run(node, mask=square(), positive=asked, images={"image_2": photo("coffee")})
        assert shown == ["The prompt speaks of image 3, but 2 images are connected."]


class TestRestore:
    def restored(self, frame, edited):
        from klein9b.nodes.restore import Klein9BRestore

        return Klein9BRestore.execute(edited, frame).args[0]

    @pytest.mark.parametrize("area", [around(), around(0), WHOLE], ids=["around", "close", "whole"])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_every_pixel_beyond_the_feather_is_the_photographs(self, node, area, batch):
        image = photo("coffee", 251)
        mask = torch.zeros(1, *image.shape[1:3])
        mask[:, 60:100, 33:70] = 1
        *_, latent, frame = run(node, image=image, mask=mask, area=area, feather=7)
        height, width = (16 * side for side in latent["samples"].shape[2:])
        edited = torch.rand(batch, height, width, 3)
        restored = self.restored(frame, edited)
        beyond = torch.ones(image.shape[1:3], dtype=torch.bool)
        beyond[53:107, 26:77] = False
        assert restored.shape == (batch, *image.shape[1:])
        assert all(torch.equal(one[beyond], image[0][beyond]) for one in restored)
        assert (restored[0] != image[0]).any(-1)[60:100, 33:70].all()

    def test_an_enlarged_photograph_comes_back_enlarged(self, node):
        image = photo("astronaut")
        *_, latent, frame = run(node, image=image, left=32, feather=8)
        height, width = (16 * side for side in latent["samples"].shape[2:])
        restored = self.restored(frame, torch.ones(1, height, width, 3))
        assert restored.shape == (1, 256, 288, 3) and (restored[:, :, :32] == 1).all()
        assert torch.equal(restored[:, :, 40:], image[:, :, 8:])

    def test_nobody_writes_into_the_photograph(self, node):
        image = photo("astronaut")
        before = image.clone()
        *_, frame = run(node, image=image, mask=square())
        assert np.shares_memory(frame.image, image.numpy())
        restored = self.restored(frame, torch.zeros(1, 256, 256, 3))
        restored += 1
        assert torch.equal(image, before)

    def test_a_picture_of_another_shape_is_refused(self, node):
        *_, frame = run(node, mask=square())
        with pytest.raises(ValueError, match="is 512x256 but image 1 was fitted to 256x256.*Klein 9B Inpaint"):
            self.restored(frame, torch.zeros(1, 256, 512, 3))
