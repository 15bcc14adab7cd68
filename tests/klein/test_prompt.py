"""What Klein makes of a prompt's words."""

import time

import pytest

from klein9b.klein.prompt import LAST_LAYER, MAX_TOKENS, TAPS, TextLength, images_spoken_of, weighted_words


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Put the cup from image 2 into image 1", {1, 2}),
        ("Images 1, 2 and 3 at dusk", {1, 2, 3}),
        ("Have the man in Figure 1 put on the clothes from Figure 2", {1, 2}),
        ("image1, image_2, image #3, photo 4's light", {1, 2, 3, 4}),
        ("wie in Bild 3 und 4", {3, 4}),
        ("como en la imagen 3, fotograf\u00eda 2", {2, 3}),
        ("comme la photo 3 et r\u00e9f\u00e9rence 2", {2, 3}),
        ("\u753b\u50cf3\u3068\u56f32", {2, 3}),
        ("\u7b2c3\u5f20\u56fe\u548c\u56fe\u72472", {2, 3}),
        ("\uc774\ubbf8\uc9c0 2\uc640 \uc0ac\uc9c4 3", {2, 3}),
        ("an image of 3 men, a picture 4k, photo 2024, photo 35mm", set()),
        ("image 16:9, image 1024x768, reimage 3, image 0", set()),
        ("image 10 and image 11, Bild 12", {10}),
        ("a figure 8 on ice, skating the figure 8, in figure 8. A Figure 8", set()),
        ("photo 50 mm lens, photo 8 mm lens, Photo 3 by 4 inches", set()),
        ("picture 10 dancers. Picture 10 dancers, a picture 3", set()),
        ("reference 90 degrees, reference 9 degrees", set()),
        ("photograph 80 years old woman, photograph 8 years old girl", set()),
        ("ein Foto 3. Foto 3 T\u00e4nzer", set()),
        ("figure #8, photo #2 dancers", {2, 8}),
        ("Reference 3, then the dress of Picture 2 and the pose from photo 4", {2, 3, 4}),
        ("das Licht aus Foto 2 und die Farben von Abbildung 3", {2, 3}),
        ("photos 1, 2 and 3.", {1, 2, 3}),
        ("", set()),
    ],
)
def test_the_images_a_prompt_speaks_of(text, numbers):
    assert images_spoken_of(text) == numbers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a (red fox:1.2) in (snow: .8)", ["(red fox:1.2)", "(snow: .8)"]),
        ("((a cat:2):1.1)", ["(a cat:2)"]),
        ("(ratio 16:9), (at 10:30), (1:2), (see: 3 men), ((loud))", []),
        ("\uff08\u732b:1.2\uff09 (\u732b:1.2)", ["(\u732b:1.2)"]),
    ],
)
def test_weights(text, words):
    assert weighted_words(text) == words


@pytest.mark.parametrize(
    "text",
    ["(" * 100_000, "(a" + "b" * 100_000, "image " * 20_000, "photo 1 " * 20_000, "image 1" + "." * 100_000],
)
def test_a_hostile_text_takes_no_longer_than_a_long_one(text):
    start = time.process_time()
    images_spoken_of(text)
    weighted_words(text)
    assert time.process_time() - start < 1


def test_what_is_read():
    assert LAST_LAYER == 27 == TAPS[-1]
    assert [TextLength(tokens).cut for tokens in (1, MAX_TOKENS, MAX_TOKENS + 3)] == [0, 0, 3]
