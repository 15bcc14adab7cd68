"""Klein 9B Cast in the real host: the prompt as it stands, its lines' tokens, and what it says."""

import pytest
import torch
from prompt_encoding import encode, same

PROMPT = "Two friends at a table.\nleft: image 1 in a red coat\nright: image 2 with a dog"


@pytest.fixture
def node(clip, monkeypatch):
    from klein9b.nodes import cast

    monkeypatch.setattr(cast, "show_text", lambda node, text: setattr(node, "told", text))
    return cast.Klein9BCast


def casts(of):
    from klein9b.nodes.host.attention_settings import settings_on

    return [one for settings in settings_on(of) for one in settings.casts]


def words(clip, prompt, run):
    """The text of some of a prompt's tokens."""
    tokens = [token for token, *_ in clip.tokenize(prompt)["qwen3_8b"][0]][slice(*run)]
    return clip.tokenizer.qwen3_8b.tokenizer.decode(tokens)


def test_it_encodes_the_prompt_as_it_stands(node, clip):
    (positive,) = node.execute(clip, PROMPT).args
    assert same(positive, encode(clip, PROMPT)[0])


@pytest.mark.parametrize("end", ["", "\n", ".", "\nAll in oil paint."])
def test_a_line_is_its_tokens(node, clip, end):
    prompt = PROMPT + end
    (positive,) = node.execute(clip, prompt).args
    left, right = casts(positive)
    assert [words(clip, prompt, run).strip(" .\n") for run in (*left.tokens, *right.tokens)] == [
        "left: image 1 in a red coat",
        "right: image 2 with a dog",
    ]
    assert (left.references, right.references, left.prompt_tokens) == ({1}, {2}, positive[0][0].shape[1])
    assert node.told.splitlines() == ["left: image 1", "right: image 2"]


def test_a_painted_place(node, clip):
    mask = torch.zeros(1, 64, 96)
    mask[:, :, :48] = 1
    (only,) = casts(node.execute(clip, "mask 1: a fox", {"mask_1": mask}).args[0])
    assert only.where.on_grid(4, 6)[:, :3].all() and not only.where.on_grid(4, 6)[:, 3:].any()
    assert node.told.splitlines()[1:] == ["50% of the picture is in no place, so only the other lines are read there."]


def test_a_prompt_without_places_is_told(node, clip):
    (positive,) = node.execute(clip, "A fox.").args
    assert "control" not in positive[0][1] and "No line of the prompt begins with a place" in node.told


def test_what_klein_does_not_read_is_told(node, clip):
    """Also where all of a line is behind what it reads."""
    (positive,) = node.execute(clip, f"A (red:1.4) fox.{' Snow.' * 300}\nleft: a bear\nright: a fox").args
    assert "so the last" in node.told and "were cut. Shorten it." in node.told and "weights do nothing" in node.told
    assert all(start == stop for cast in casts(positive) for start, stop in cast.tokens)


def test_a_mask_that_no_line_speaks_of_is_told(node, clip):
    node.execute(clip, PROMPT, {"mask_2": torch.ones(1, 8, 8)})
    assert "No line of the prompt speaks of mask 2." in node.told


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        ({}, r"mask 1, but mask_1 is not connected \(connected: none\)"),
        ({"mask_1": torch.zeros(1, 8, 8)}, r"mask_1 is empty"),
        ({"mask_1": torch.ones(2, 8, 8)}, r"Expected one mask, got 2"),
    ],
)
def test_bad_masks(node, clip, masks, sentence):
    with pytest.raises(ValueError, match=sentence):
        node.execute(clip, "mask 1: a fox", masks)


@pytest.mark.parametrize("number", [0, 7])
def test_a_mask_that_there_cannot_be_is_told(node, clip, number):
    with pytest.raises(ValueError, match=f"mask {number}, but masks are numbered 1 to 6"):
        node.execute(clip, f"mask {number}: a fox")
