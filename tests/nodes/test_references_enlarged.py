"""Klein 9B References: small photographs edited larger, several pictures at once, the fitted image handed out."""

import numpy as np
import pytest
import torch
from references_run import CountingVae, photo, references, restored, run


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.references import Klein9BReferences

    return Klein9BReferences


class TestEnlarged:
    """A small photograph edited larger: as if it had been enlarged before it was connected."""

    LARGER = {"aspect_ratio": "enlarge_input_image", "megapixels": 0.25}

    def run(self, node, images, **others):
        return run(node, CountingVae(), images=images, ratio=dict(self.LARGER), megapixels=0.25, **others)

    def test_the_new_picture_and_the_reference_share_the_larger_grid(self, node):
        positive, _, latent, frame = self.run(node, {"image_1": photo("coffee", 250)})
        assert frame.placement.original.area == pytest.approx(0.25 * 1024**2, rel=0.005)
        assert references(positive)[0].shape[2:] == latent["samples"].shape[2:] == (26, 39)

    def test_restore_lays_it_exactly_over_the_enlarged_photograph(self, node):
        from klein9b.klein.framing import fit_image

        *_, frame = self.run(node, {"image_1": photo("coffee", 250)}, fit="pad")
        back = restored(torch.from_numpy(fit_image(frame.image, frame.placement).copy())[None], frame)
        assert tuple(back.shape[1:]) == frame.image.shape and max(back.shape) > 600
        assert np.array_equal(back[0].numpy(), frame.image)

    def test_one_that_is_larger_yet_is_not_made_smaller_beside_others(self, node):
        """A photograph a little larger than was asked for is no worse off than one a little smaller."""
        choice, cup = {"aspect_ratio": "enlarge_input_image"}, photo("coffee")
        sizes = []
        for side in (1500, 1600):
            large = torch.nn.functional.interpolate(photo("astronaut", 100).movedim(-1, 1), (side, side)).movedim(1, -1)
            images = {"image_1": large, "image_2": cup}
            _, _, latent, _ = run(node, CountingVae(), images=images, ratio=choice, megapixels=2.25)
            sizes.append(tuple(latent["samples"].shape[2:]))
        assert sizes == [(96, 96), (100, 100)]

    def test_a_photograph_that_is_as_large_stays(self, node):
        image = photo("astronaut", 600)
        wanted = run(node, CountingVae(), images={"image_1": image})
        got = self.run(node, {"image_1": image})
        assert got[3].placement == wanted[3].placement and got[2]["samples"].shape == wanted[2]["samples"].shape

    def test_the_other_images_stay_as_they_are(self, node):
        images = {"image_1": photo("astronaut", 100), "image_2": photo("coffee")}
        positive, *_ = self.run(node, images)
        assert [tuple(r.shape[2:]) for r in references(positive)] == [(32, 32), (10, 16)]

    @pytest.mark.parametrize("fit", ["crop", "pad", "megapixel"])
    def test_it_is_as_large_as_was_asked_for_beside_others(self, node, fit):
        images = {"image_1": photo("astronaut", 100), "image_2": photo("coffee")}
        choice = {"aspect_ratio": "enlarge_input_image"}
        _, _, latent, _ = run(node, CountingVae(), images=images, ratio=choice, megapixels=2.25, fit=fit)
        assert tuple(latent["samples"].shape[2:]) == (96, 96)

    def test_each_of_a_batch_of_photographs_is_enlarged(self, node):
        batch = torch.cat([photo("astronaut", 100)] * 2)
        *_, latent, frame = self.run(node, {"image_1": batch}, image_1_batch="photographs")
        assert tuple(latent["samples"].shape) == (2, 128, 32, 32)
        assert [one.image.shape for one in frame.photographs] == [(512, 512, 3)] * 2


class TestBatch:
    def test_so_many_pictures_with_noise_of_their_own(self, node):
        _, _, latent, _ = run(node, CountingVae(), images={"image_1": photo("coffee")}, batch_size=3)
        assert latent["samples"].shape[0] == 3 and "batch_index" not in latent

    def test_each_of_them_is_restored(self, node):
        *_, frame = run(node, CountingVae(), images={"image_1": photo("coffee", 250)}, batch_size=2)
        grid = frame.placement.grid
        assert restored(torch.zeros(2, grid.height, grid.width, 3), frame).shape[0] == 2

    def test_photographs_and_a_batch_of_each_are_told(self, node):
        batch = torch.cat([photo("coffee")] * 2)
        with pytest.raises(ValueError, match=r"^batch_size is 3, but .* of the 2 photographs\. Set batch_size to 1"):
            run(node, CountingVae(), images={"image_1": batch}, image_1_batch="photographs", batch_size=3)


class TestFittedImage:
    def fitted(self, node, images, **others):
        return run(node, CountingVae(), images=images, whole=True, **others)

    @pytest.mark.parametrize("fit", ["crop", "pad", "megapixel"])
    def test_encoding_it_gives_the_reference(self, node, fit):
        positive, *_, image = self.fitted(node, {"image_1": photo("coffee", 250), "image_2": photo("coffee")}, fit=fit)
        assert image.dtype == torch.float32 and image.shape[3] == 3
        assert torch.equal(CountingVae().encode(image), references(positive)[0])

    def test_of_photographs_it_is_a_batch(self, node):
        batch = torch.cat([photo("coffee", 250), photo("coffee", 250).flip(2)])
        positive, *_, image = self.fitted(node, {"image_1": batch}, image_1_batch="photographs")
        assert torch.equal(CountingVae().encode(image), references(positive)[0])

    def test_without_image_1_what_is_connected_is_told(self, node):
        from comfy_execution.graph_utils import ExecutionBlocker

        *_, image = self.fitted(node, {}, ratio="1:1")
        assert isinstance(image, ExecutionBlocker) and "connect one, or disconnect fitted_image" in image.message
