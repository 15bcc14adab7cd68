"""Klein 9B References in the real host, with a VAE that counts."""

import math

import numpy as np
import pytest
import torch
from references_run import CountingVae, photo, prompt, references, restored, run

import standins
from standins.greys import DTYPES, FINE, ROUNDING, grey


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.references import Klein9BReferences

    return Klein9BReferences


@pytest.fixture(scope="module")
def real_vae(comfy_host):
    import comfy.sd

    return comfy.sd.VAE(sd=standins.vae())


class TestPhotographs:
    """A batch connected to image 1 as photographs, each edited to a picture of its own."""

    def batch(self):
        return torch.cat([photo("astronaut", 300), photo("astronaut", 300).flip(2), photo("astronaut", 300) / 2])

    def run(self, node, **changes):
        images = {"image_1": self.batch(), "image_2": photo("coffee"), **changes}
        return run(node, CountingVae(), images=images, image_1_batch="photographs")

    def test_they_are_one_reference_with_a_row_each(self, node):
        positive, negative, latent, _ = self.run(node)
        assert [tuple(r.shape) for r in references(positive)] == [(3, 128, 18, 18), (1, 128, 10, 16)]
        assert all(a is b for a, b in zip(references(positive), references(negative), strict=True))
        assert tuple(latent["samples"].shape) == (3, 128, 18, 18) and latent["batch_index"] == [0, 0, 0]

    def test_each_row_is_what_its_photograph_is_alone(self, node):
        rows = references(self.run(node)[0])[0]
        for row, one in zip(rows, self.batch()):
            positive, *_ = run(node, CountingVae(), images={"image_1": one[None], "image_2": photo("coffee")})
            assert torch.equal(row, references(positive)[0][0])

    def test_a_single_image_may_be_as_large_as_alone(self, node):
        """The cap is lower where there are several references, and these are one of each picture."""
        large = torch.rand(2, 1088, 1088, 3, generator=torch.Generator().manual_seed(1))
        *_, latent, _ = run(node, CountingVae(), images={"image_1": large}, image_1_batch="photographs")
        assert tuple(latent["samples"].shape) == (2, 128, 68, 68)

    def test_frames_of_other_images_are_shared(self, node):
        positive, *_ = self.run(node, image_3=torch.cat([photo("coffee"), photo("coffee").flip(2)]))
        assert [r.shape[0] for r in references(positive)] == [3, 1, 1, 1]

    def test_each_comes_back_over_its_own(self, node):
        *_, frame = self.run(node)
        back = restored(torch.zeros(3, 288, 288, 3), frame)
        assert tuple(back.shape) == (3, 300, 300, 3)
        edges = torch.stack([one[0] for one in self.batch()])
        assert torch.equal(back[:, 0], edges) and back[:, 150, 150].abs().max() == 0

    def test_another_number_of_pictures_is_told(self, node):
        *_, frame = self.run(node)
        with pytest.raises(ValueError, match=r"Expected 3 pictures, one for each photograph .*, got 2\."):
            restored(torch.zeros(2, 288, 288, 3), frame)

    @pytest.mark.parametrize("images", [{}, {"image_1": photo("coffee")}], ids=["none", "one"])
    def test_without_a_batch_nothing_is_else(self, node, images):
        wanted = run(node, CountingVae(), images=images)
        got = run(node, CountingVae(), images=images, image_1_batch="photographs")
        assert got[2].keys() == wanted[2].keys() and got[2]["samples"].shape == wanted[2]["samples"].shape
        assert len(references(got[0])) == len(references(wanted[0]))

    def test_images_spoken_of_are_counted_by_picture(self, node, shown):
        from klein9b.nodes.host.prompt_text import with_prompt_text

        images = {"image_1": self.batch(), "image_2": photo("coffee")}
        spoken = with_prompt_text(prompt(), "the cup of image 3")
        run(node, CountingVae(), images=images, positive=spoken, image_1_batch="photographs")
        assert shown["Klein9BReferences"] == "The prompt speaks of image 3, but 2 images are connected."


class TestConditioning:
    def test_references_join_both_in_order(self, node):
        images = {"image_1": photo("astronaut"), "image_2": photo("coffee")}
        positive, negative, latent, _ = run(node, CountingVae(), images=images, negative=prompt(2.0))
        assert [tuple(r.shape) for r in references(positive)] == [(1, 128, 16, 16), (1, 128, 10, 16)]
        assert all(a is b for a, b in zip(references(positive), references(negative), strict=True))
        assert negative[0][0][0, 0, 0] == 2.0
        assert tuple(latent["samples"].shape) == (1, 128, 16, 16)

    def test_socket_order_counts_not_arrival_order(self, node):
        images = {"image_10": photo("coffee"), "image_2": photo("astronaut")}
        positive, *_ = run(node, CountingVae(), images=images)
        assert [r.shape[2] for r in references(positive)] == [16, 10]

    def test_existing_references_stay_in_front(self, node):
        earlier = torch.zeros(1, 128, 4, 4)
        chained = [[torch.ones(1, 8, 16), {"reference_latents": [earlier]}]]
        positive, *_ = run(node, CountingVae(), images={"image_1": photo("coffee")}, positive=chained)
        assert references(positive)[0] is earlier and len(references(positive)) == 2

    def test_a_prompt_of_another_model_gets_the_same_references(self, node, real_vae):
        """FLUX.3 [klein] has the same VAE: what is sized and encoded for it depends on the images and that alone."""
        images = {"image_1": photo("astronaut"), "image_2": photo("coffee")}
        of_flux3 = [[torch.randn(1, 40, 2560), {"pooled_output": None, "its own": 1}]]
        ours, theirs = (run(node, real_vae, images=images, positive=one) for one in (prompt(), of_flux3))
        assert theirs[0][0][0] is of_flux3[0][0] and theirs[0][0][1]["its own"] == 1
        assert all(map(torch.equal, references(ours[0]), references(theirs[0])))
        assert torch.equal(ours[2]["samples"], theirs[2]["samples"])
        assert ours[3].placement == theirs[3].placement
        other = run(node, CountingVae(), images=images, positive=of_flux3)
        assert not torch.equal(references(other[0])[0], references(theirs[0])[0])

    def test_inputs_are_not_mutated(self, node):
        original = prompt()
        run(node, CountingVae(), images={"image_1": photo("coffee")}, positive=original)
        assert original[0][1] == {"pooled_output": None}

    def test_without_negative_the_prompt_is_zeroed(self, node):
        _, negative, _, _ = run(node, CountingVae(), images={"image_1": photo("coffee")})
        assert negative[0][0].abs().max() == 0 and len(references(negative)) == 1

    def test_every_frame_of_a_batch_is_a_reference(self, node):
        batch = torch.cat([photo("astronaut"), photo("astronaut").flip(2)])
        positive, *_ = run(node, CountingVae(), images={"image_1": batch, "image_2": photo("coffee")})
        assert len(references(positive)) == 3

    def test_without_images_it_is_text_to_image(self, node):
        vae, asked = CountingVae(), prompt()
        positive, _, latent, frame = run(node, vae, positive=asked, ratio="16:9", megapixels=0.5)
        assert positive is asked and frame is None and not vae.calls
        assert tuple(latent["samples"].shape[2:]) == (34, 60)

    def test_matching_nothing_means_square(self, node):
        _, _, latent, _ = run(node, CountingVae())
        assert tuple(latent["samples"].shape[2:]) == (64, 64)

    def test_custom_size(self, node):
        choice = {"aspect_ratio": "custom", "width": 640, "height": 320}
        _, _, latent, _ = run(node, CountingVae(), ratio=choice)
        assert tuple(latent["samples"].shape[2:]) == (20, 40)


class TestGrid:
    @pytest.mark.parametrize("fit", ["crop", "pad", "megapixel"])
    def test_the_output_grid_is_reference_1s(self, node, real_vae, fit):
        """With the real VAE, which would crop on its own what does not fit."""
        image = photo("astronaut")[:, :251, :203] if fit != "megapixel" else photo("astronaut")
        positive, _, latent, frame = run(node, real_vae if fit != "megapixel" else CountingVae(), fit=fit,
                                         images={"image_1": image})  # fmt: skip
        assert references(positive)[0].shape[2:] == latent["samples"].shape[2:]
        assert latent["samples"].shape[2] * 16 == frame.placement.grid.height


class TestEncodesOnce:
    def test_a_changed_prompt_encodes_nothing(self, node):
        vae, images = CountingVae(), {"image_1": photo("astronaut"), "image_2": photo("coffee")}
        run(node, vae, images=images)
        run(node, vae, images=images, positive=prompt(3.0), negative=prompt(4.0))
        assert len(vae.calls) == 2

    def test_another_order_or_ratio_encodes_nothing(self, node):
        vae, one, two = CountingVae(), photo("astronaut"), photo("coffee")
        run(node, vae, images={"image_1": one, "image_2": two})
        run(node, vae, images={"image_1": two, "image_2": one}, ratio="1:1")
        assert len(vae.calls) == 2

    def test_equal_images_are_encoded_once(self, node):
        vae = CountingVae()
        run(node, vae, images={"image_1": photo("coffee"), "image_2": photo("coffee")})
        assert len(vae.calls) == 1

    def test_changed_pixels_are_encoded(self, node):
        vae, image = CountingVae(), photo("coffee")
        run(node, vae, images={"image_1": image})
        image[0, 50, 60, 1] += 0.25
        run(node, vae, images={"image_1": image})
        assert len(vae.calls) == 2

    def test_each_vae_has_its_own_latents(self, node):
        first, second, images = CountingVae(), CountingVae(), {"image_1": photo("coffee")}
        run(node, first, images=images)
        run(node, second, images=images)
        assert len(first.calls) == len(second.calls) == 1

    def test_the_real_vae_carries_the_store(self, node, real_vae):
        images = {"image_1": photo("coffee", 96)}
        first = references(run(node, real_vae, images=images)[0])[0]
        again = references(run(node, real_vae, images=images, positive=prompt(2.0))[0])[0]
        assert again is first


class TestOddImages:
    def test_transparency_is_laid_over_white(self, node):
        vae = CountingVae()
        clear = torch.zeros(1, 64, 64, 4)
        positive, *_ = run(node, vae, images={"image_1": clear})
        assert vae.calls == [(1, 64, 64, 3)]
        assert references(positive)[0].min() == 1

    def test_16bit_levels_reach_the_vae(self, node):
        fine = torch.full((1, 64, 64, 3), 12345 / 65535)
        positive, *_ = run(node, CountingVae(), images={"image_1": fine})
        assert references(positive)[0][0, 0, 0, 0].item() == pytest.approx(12345 / 65535, abs=2e-6)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_picture_of_any_dtype_reaches_the_vae_as_it_is(self, node, dtype):
        positive, *_ = run(node, CountingVae(), images={"image_1": grey(dtype, side=64)})
        assert references(positive)[0][0, 0, 0, 0].item() == pytest.approx(0.25, abs=ROUNDING.get(dtype, FINE))

    @pytest.mark.parametrize("shape", [(64, 64, 3), (1, 2, 64, 64, 3), (64, 64)])
    def test_what_is_no_batch_of_images_is_told_so(self, node, shape):
        with pytest.raises(ValueError, match=r"^image_1.*: Expected pictures shaped \[frames, height"):
            run(node, CountingVae(), images={"image_1": torch.zeros(shape)})

    def test_an_empty_batch_does_not_renumber_the_others(self, node):
        images = {"image_1": torch.zeros(0, 64, 64, 3), "image_2": photo("coffee")}
        with pytest.raises(ValueError, match="^image_1: The batch holds no frame"):
            run(node, CountingVae(), images=images)

    @pytest.mark.parametrize(
        ("shape", "fill", "words"),
        [
            ((1, 40, 100, 3), 0.5, "image_2: The image is 100x40 pixels; FLUX.2 needs at least 64"),
            ((1, 64, 640, 3), 0.5, "image_2: The image is 640x64 pixels, an aspect of 10.0:1"),
            ((1, 64, 64, 3), math.nan, "image_2: The image holds NaN"),
            ((1, 64, 64, 2), 0.5, "image_2: The image has 2 channels"),
        ],
    )
    def test_the_sentence_names_the_socket(self, node, shape, fill, words):
        images = {"image_1": photo("coffee"), "image_2": torch.full(shape, fill)}
        with pytest.raises(ValueError) as caught:
            run(node, CountingVae(), images=images)
        assert str(caught.value).startswith(words)

    def test_a_frame_of_a_batch_is_named(self, node):
        batch = torch.zeros(2, 64, 64, 3)
        batch[1, 0, 0, 0] = math.inf
        with pytest.raises(ValueError, match="image_1, frame 2: The image holds NaN or infinite"):
            run(node, CountingVae(), images={"image_1": batch})

    def test_another_models_vae_is_refused(self, node):
        vae = CountingVae()
        vae.latent_channels = 16
        with pytest.raises(ValueError, match="latents of 16 channels"):
            run(node, vae, images={"image_1": photo("coffee")})
        assert not vae.calls


class TestFrame:
    """What image 1 costs in memory, which for a photograph of 24 megapixels is 275 MiB a copy."""

    def frame_of(self, node, image, vae=None, fit="crop"):
        *_, frame = run(node, vae or CountingVae(), images={"image_1": image}, fit=fit)
        return frame

    @pytest.mark.parametrize("frames", [1, 2])
    def test_it_is_the_connected_image_itself(self, node, frames):
        batch = torch.cat([photo("coffee")] * frames)
        assert np.shares_memory(self.frame_of(node, batch).image, batch.numpy())

    @pytest.mark.parametrize("fit", ["crop", "pad", "megapixel"])
    @pytest.mark.parametrize("side", [96, 90], ids=["on the grid", "off the grid"])
    def test_nobody_writes_into_it(self, node, real_vae, fit, side):
        """On the grid the VAE gets the same memory too."""
        from klein9b.nodes.restore import Klein9BRestore

        image = photo("astronaut", side)
        before = image.clone()
        frame = self.frame_of(node, image, real_vae if fit != "megapixel" else None, fit)
        grid = frame.placement.grid
        (restored,) = Klein9BRestore.execute(torch.zeros(1, grid.height, grid.width, 3), frame).args
        restored += 1
        assert torch.equal(image, before)

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: (image * 255).to(torch.uint8),
            lambda image: image.double(),
            lambda image: image.half(),
            lambda image: image[..., :1],
            lambda image: torch.cat([image, torch.ones_like(image[..., :1])], dim=-1),
            lambda image: image * 1.5 - 0.25,
        ],
        ids=["uint8", "float64", "float16", "grey", "RGBA", "out of range"],
    )
    def test_any_other_image_becomes_one(self, node, change):
        image = change(photo("coffee"))
        before = image.clone()
        held = self.frame_of(node, image).image
        assert held.dtype == np.float32 and held.shape[2] == 3 and held.min() >= 0 and held.max() <= 1
        assert not np.shares_memory(held, image.numpy()) and torch.equal(image, before)


class TestRestoreNode:
    def test_identity_round_trip(self, node):
        from klein9b.klein.framing import fit_image
        from klein9b.nodes.restore import Klein9BRestore

        image = photo("coffee", 250)
        *_, frame = run(node, CountingVae(), images={"image_1": image}, fit="pad")
        grid = frame.placement.grid
        padded = torch.from_numpy(fit_image(frame.image, frame.placement).copy())
        assert padded.shape[:2] == (grid.height, grid.width)
        (restored,) = Klein9BRestore.execute(torch.stack([padded, padded]), frame).args
        assert restored.shape == (2, *image.shape[1:])
        assert torch.equal(restored[0], image[0])

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_picture_of_any_dtype_is_restored_as_it_is(self, node, dtype):
        from klein9b.nodes.restore import Klein9BRestore

        *_, frame = run(node, CountingVae(), images={"image_1": grey(torch.float32, 3, side=70)})
        (restored,) = Klein9BRestore.execute(grey(dtype, side=64), frame).args
        assert restored.shape == (1, 70, 70, 3) and restored.dtype == torch.float32
        assert restored[0, 35, 35].tolist() == pytest.approx([0.25] * 3, abs=ROUNDING.get(dtype, FINE))

    def test_without_image_1_the_picture_passes(self, node):
        from klein9b.nodes.restore import Klein9BRestore

        picture = torch.rand(1, 64, 64, 3)
        assert Klein9BRestore.execute(picture, None).args[0] is picture
