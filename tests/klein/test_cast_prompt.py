"""Lines of a prompt that have a place, and which tokens they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klein9b.klein.cast_prompt import BOXES, cast_lines, token_run

PROMPT = """A rainy street at night.
left: image 2 in a red coat
  Right third :  the dog of image 1 and image 3
mask 2: a lamp
In the middle: nothing of this kind.
left of the door: neither
top:"""


def test_lines_with_a_place():
    found = [(one.place, PROMPT[one.start : one.stop].strip(), one.images) for one in cast_lines(PROMPT)]
    assert found == [
        ("left", "left: image 2 in a red coat", {2}),
        ("right third", "Right third :  the dog of image 1 and image 3", {1, 3}),
        (2, "mask 2: a lamp", set()),
    ]


@pytest.mark.parametrize("name", BOXES)
def test_every_place_is_read(name):
    (line,) = cast_lines(f"{name}: a fox")
    assert line.place == name


def test_halves_and_thirds_make_up_the_picture():
    for parts in (("left", "right"), ("top", "bottom"), ("left third", "middle third", "right third")):
        assert sum(BOXES[part].on_grid(7, 11) for part in parts).allclose(BOXES["everywhere"].on_grid(7, 11))


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_around_a_line(before, behind):
    prompt = f"{before}\nleft: a fox\n{behind}"
    assert "left: a fox" in [prompt[one.start : one.stop].strip() for one in cast_lines(prompt)]


def test_a_run_ends_where_the_prompts_part():
    head, tail = [1, 2, 3], [90, 91]
    whole = [*head, 10, 11, 12, 20, 21, 30, *tail]
    assert token_run(whole, [*head, 10, *tail], [*head, 10, 11, 12, 20, *tail]) == (4, 7)
    # Joined across the edge: 10 and 11 are one token where the part is not cut off.
    assert token_run([*head, 99, 12, *tail], [*head, 10, *tail], [*head, 99, 12, 13, *tail]) == (3, 5)
