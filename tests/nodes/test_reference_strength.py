"""Klein 9B Reference Strength: settings on conditioning, masks fitted as their image was, and what it refuses."""

import numpy as np
import pytest
import torch
from test_references_node import CountingVae, photo

pytestmark = pytest.mark.usefixtures("comfy_host")


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.reference_strength import Klein9BReferenceStrength

    return Klein9BReferenceStrength


@pytest.fixture
def joined(comfy_host):
    """A prompt with two photographs."""
    from klein9b.nodes.references import Klein9BReferences

    prompt = [[torch.ones(1, 512, 16), {}]]
    images = {"image_1": photo("coffee"), "image_2": photo("astronaut")}
    options = {"fit": "crop", "aspect_ratio": {"aspect_ratio": "1:1", "megapixels": 1.0}}
    return Klein9BReferences.execute(prompt, CountingVae(), images=images, **options).args[:2]


def run(node, joined, image=1, strength=1.0, start=0.0, end=1.0, **masks):
    positive, negative = joined
    return node.execute(positive, image, strength, start, end, negative, **masks).args


def influence(conditioning, image=1):
    from klein9b.nodes.host.attention_settings import settings_on

    *_, last = settings_on(conditioning)
    return last.influences[image]


def test_both_prompts_share_the_setting(node, joined):
    positive, negative = run(node, joined, 2, 1.5, 0.2, 0.8)
    assert positive[0][1]["control"] is negative[0][1]["control"]
    one = influence(positive, 2)
    assert (one.strength, one.interval.start, one.interval.end) == (1.5, 0.2, 0.8)
    assert one.where is None and one.kept is None and "control" not in joined[0][0][1]


def test_without_a_negative_it_is_zeroed(node, joined):
    _, negative = run(node, (joined[0], None))
    assert not negative[0][0].any() and len(negative[0][1]["reference_latents"]) == 2


def test_an_image_mask_is_cropped_as_its_image_was(node, joined):
    """256x171 became 256x160, from the sixth row on."""
    mask = torch.zeros(1, 171, 256)
    mask[:, 5 + 32 : 5 + 64, 48:96] = 1
    kept = influence(run(node, joined, image_mask=mask)[0]).kept
    wanted = np.zeros((10, 16), bool)
    wanted[2:4, 3:6] = True
    assert torch.equal(kept, torch.from_numpy(wanted))


def test_full_masks_are_none(node, joined):
    one = influence(run(node, joined, image_mask=torch.ones(1, 171, 256), picture_mask=torch.ones(1, 64, 64))[0])
    assert one.kept is None and one.where is None


def test_after_the_hosts_own_reference_latent_a_mask_of_its_shape_fits(node):
    positive = [[torch.ones(1, 512, 16), {"reference_latents": [torch.zeros(1, 128, 4, 6)]}]]
    mask = torch.zeros(1, 128, 192)
    mask[:, :32] = 1
    kept = influence(run(node, (positive, positive), image_mask=mask)[0]).kept
    assert kept[0].all() and not kept[1:].any()


def test_a_mask_painted_on_the_fitted_image_is_on_its_grid(node, joined):
    mask = torch.zeros(1, 160, 256)
    mask[:, 32:64, 48:96] = 1
    wanted = torch.zeros(10, 16, dtype=torch.bool)
    wanted[2:4, 3:6] = True
    assert torch.equal(influence(run(node, joined, image_mask=mask)[0]).kept, wanted)


def speck():
    mask = torch.zeros(1, 171, 256)
    mask[:, 50:54, 50:54] = 1
    return mask


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image": 3}, r"Image 3 is to be changed, but 2 images are joined"),
        ({"image_mask": torch.ones(1, 64, 64)}, r"image_mask is 64x64 pixels, but the image is 256x171"),
        ({"image_mask": torch.zeros(1, 171, 256)}, r"image_mask is empty"),
        ({"image_mask": speck()}, r"fills half of no cell of 16x16 pixels"),
        ({"picture_mask": torch.zeros(1, 64, 64)}, r"picture_mask is empty"),
        ({"picture_mask": torch.ones(3, 64, 64)}, r"Expected one mask, got 3"),
        ({"picture_mask": torch.full((1, 64, 64), float("nan"))}, r"NaN"),
        ({"picture_mask": torch.ones(1, 2, 64, 64)}, r"shaped \[1, height, width\], got \[1, 2, 64, 64\]"),
        ({"start": 0.8, "end": 0.2}, r"starts at 0.8 and ends at 0.2"),
    ],
)
def test_bad_input(node, joined, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(node, joined, **options)
