"""Klein 9B Edit Report in the real host: what comes out, what is said, and bad pictures."""

import numpy as np
import pytest
import torch

from standins.edited_photographs import edited

pytestmark = pytest.mark.usefixtures("comfy_host")

CHOICES = {"undo_movement": False, "lock_colors": False, "only_changes": False, "threshold": 5.0, "feather": 8}


@pytest.fixture
def node(comfy_host):
    from klein9b.nodes.edit_report import Klein9BEditReport

    return Klein9BEditReport


@pytest.fixture
def shown(monkeypatch, node):
    texts = []
    monkeypatch.setattr("klein9b.nodes.edit_report.show_text", lambda _, text: texts.append(text))
    return texts


@pytest.fixture(scope="module")
def pair():
    made = edited(320, 256, shift=(3.5, -2), changed=0.3, seed=2)
    return torch.from_numpy(np.stack([made.original])), torch.from_numpy(np.stack([made.edit]))


def run(node, original, edit, **choices):
    return node.execute(original, edit, **CHOICES | choices).args


def test_a_picture_a_mask_and_the_text_under_the_node(node, pair, shown):
    picture, mask, report = run(node, *pair)
    assert torch.equal(picture, pair[1]) and mask.shape == (1, 256, 320)
    assert 0.25 < mask.mean() < 0.35
    assert shown == [report] and report.startswith("shift: 3.") and "changed: 3" in report


def test_only_what_changed_is_laid_over_the_original(node, pair, shown):
    picture, mask, _ = run(node, *pair, undo_movement=True, lock_colors=True, only_changes=True, feather=0)
    assert torch.equal(picture[mask == 0], pair[0][mask == 0])
    assert (picture[mask == 1] - pair[0][mask == 1]).abs().mean() > 0.1


def test_nothing_connected_is_written_into(node, pair, shown):
    before = [one.clone() for one in pair]
    run(node, *pair, undo_movement=True, lock_colors=True, only_changes=True)
    assert all(torch.equal(one, other) for one, other in zip(before, pair))


def test_several_edits_of_one_original(node, pair, shown):
    original, edit = pair
    picture, mask, report = run(node, original, torch.cat([edit, original]))
    assert len(picture) == len(mask) == 2 and mask[1].sum() == 0
    first, second = report.split("\n\n")
    assert first.startswith("edit, frame 1\n") and "edit, frame 2\nshift: 0.00 px, 0.00 px\n" in second


def test_two_edits_of_two_originals(node, pair, shown):
    both = torch.cat([pair[0], pair[1]])
    assert run(node, both, both)[1].sum() == 0


class TestBadInput:
    def test_pictures_of_two_sizes(self, node, pair):
        with pytest.raises(ValueError, match="The edit is 320x240 pixels and the original 320x256: expected two"):
            run(node, pair[0], pair[1][:, :240])

    def test_another_number_of_originals(self, node, pair):
        with pytest.raises(ValueError, match="There are 2 originals and 3 edits: expected one original, or one for"):
            run(node, pair[0].repeat(2, 1, 1, 1), pair[1].repeat(3, 1, 1, 1))

    def test_no_number(self, node, pair):
        with pytest.raises(ValueError, match=r"^edit: "):
            run(node, pair[0], torch.full_like(pair[1], torch.nan))

    def test_another_picture_is_not_put_back_and_that_is_said(self, node, pair, shown, caplog):
        other = torch.from_numpy(edited(320, 256, seed=40).original[None])
        picture, _, report = run(node, pair[0], other, undo_movement=True)
        assert torch.equal(picture, other)
        assert report.startswith("shift, zoom, rotation: not measured") and "its shift is not known" in caplog.text
