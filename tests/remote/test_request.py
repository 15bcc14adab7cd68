"""The request: what is refused here, its bytes, and recognising it in the account's history."""

import json
import random
import string

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.remote.errors import NOTHING_SENT, BadInput
from klein9b.remote.request import (
    ASPECT_RATIOS,
    MAX_SEED,
    KleinRequest,
    body_digest,
    encode_body,
    fingerprint_of,
    outline,
    read_inputs,
    refuse_image_url,
    refuse_too_many_references,
)

FUZZ = settings(deadline=None, max_examples=150)
REQUESTS = st.builds(
    KleinRequest,
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    negative_prompt=st.text(st.characters(exclude_categories=["Cs"])),
    image_urls=st.lists(st.sampled_from(["https://a.example/1.png", "https://b.example/2.png"]), max_size=3),
    seed=st.integers(0, MAX_SEED),
    cfg=st.floats(1, 20) | st.integers(1, 20),
    sampler=st.sampled_from(["euler", "res_2s"]),
    steps=st.integers(1, 100),
    aspect_ratio=st.sampled_from(ASPECT_RATIOS),
    go_fast=st.booleans(),
    image_format=st.sampled_from(["png", "jpeg", "webp"]),
    quality=st.integers(10, 100),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ""},
        {"prompt": " \n\t"},
        {"prompt": None},
        {"prompt": "\ud800"},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.0},
        {"seed": True},
        {"steps": 0},
        {"steps": 101},
        {"cfg": 0.99},
        {"cfg": 20.01},
        {"cfg": float("nan")},
        {"cfg": float("inf")},
        {"cfg": "5"},
        {"quality": 9},
        {"quality": 101},
        {"sampler": "ddim"},
        {"image_format": "gif"},
        {"go_fast": 1},
        {"aspect_ratio": ""},
        {"aspect_ratio": 1.0},
        {"image_urls": ["http://a.example/x.png"]},
        {"image_urls": ["https://user:pw@a.example/x.png"]},
        {"image_urls": ["data:image/png;base64,AAAA"]},
        {"image_urls": ["https://localhost/x.png"]},
        {"image_urls": ["https://127.0.0.1/x.png"]},
        {"image_urls": ["https://127.1/x.png"]},
        {"image_urls": ["https://2130706433/x.png"]},
        {"image_urls": ["https://0x7f.1/x.png"]},
        {"image_urls": ["https://[::1]/x.png"]},
        {"image_urls": ["https://10.0.0.8/x.png"]},
        {"image_urls": ["https://169.254.169.254/latest"]},
        {"image_urls": ["https://nas.local/x.png"]},
        {"image_urls": ["https://a.example/x y.png"]},
        {"image_urls": ["https:///x.png"]},
        {"image_urls": ["file:///etc/passwd"]},
        {"image_urls": [7]},
        {"image_urls": ["https://a.example/" + "x" * 5000]},
    ],
    ids=str,
)
def test_what_the_server_would_refuse_never_leaves(changes):
    with pytest.raises(BadInput) as refusal:
        KleinRequest(**{"prompt": "x", **changes})
    assert refusal.value.money == NOTHING_SENT and refusal.value.todo


def test_an_aspect_ratio_we_do_not_know_is_the_servers_to_refuse():
    assert KleinRequest(prompt="x", aspect_ratio="32:9").body()["aspect_ratio"] == "32:9"


@FUZZ
@given(REQUESTS)
def test_bytes_are_those_httpx_writes(request):
    body = request.body()
    if httpx.__version__ >= "0.28":  # before, httpx put blanks into JSON
        assert encode_body(body) == httpx.Request("POST", "https://a", json=body).read()
    assert json.loads(encode_body(body)) == body


@FUZZ
@given(REQUESTS, st.randoms(use_true_random=False))
def test_history_recognises_a_request_however_it_shows_it(request, rng):
    sent = request.body(["https://images.segmind.com/assets/up.png"])
    keys = list(sent)
    rng.shuffle(keys)
    shown = {key: sent[key] for key in keys} | {"safety": "on", "webhook": None}
    for form in (shown, json.dumps(shown), repr(shown)):
        assert body_digest(form) == body_digest(sent) != ""


@FUZZ
@given(REQUESTS, REQUESTS)
def test_different_requests_have_different_digests_and_fingerprints(one, other):
    same = one.body() == other.body()
    assert (body_digest(one.body()) == body_digest(other.body())) == same
    assert (one.fingerprint(["a"], "https://api") == other.fingerprint(["a"], "https://api")) == same


def test_a_fingerprint_knows_the_images_their_order_and_the_server():
    request = KleinRequest(prompt="x")
    known = [(["a", "b"], "h"), (["b", "a"], "h"), (["a"], "h"), ([], "h"), (["a", "b"], "i")]
    assert len({request.fingerprint(*each) for each in known}) == len(known)


def test_five_is_five():
    whole, real = KleinRequest(prompt="x", cfg=5), KleinRequest(prompt="x", cfg=5.0)
    assert encode_body(whole.body()) == encode_body(real.body())
    assert whole.fingerprint([], "h") == real.fingerprint([], "h")


@FUZZ
@given(st.text() | st.binary() | st.none() | st.integers() | st.dictionaries(st.text(), st.floats()))
def test_any_history_body_is_read_or_ignored(body):
    assert isinstance(body_digest(body), str)


@pytest.mark.parametrize("body", ["[" * 100000, "{'prompt': " * 5000, "{'prompt': __import__('os')}", "\x00"])
def test_hostile_history_bodies_are_ignored(body):
    assert body_digest(body) == ""


@FUZZ
@given(st.text())
def test_any_text_is_an_address_or_a_sentence(text):
    try:
        refuse_image_url(text)
    except BadInput:
        return
    assert text.lower().startswith("https://")


def test_a_good_address_passes():
    rng = random.Random(0)
    for _ in range(50):
        path = "".join(rng.choices(string.ascii_letters + "/_-?&=%20", k=30))
        refuse_image_url("https://images.example.com/" + path)


@FUZZ
@given(request=REQUESTS, form=st.sampled_from([repr, json.dumps, dict]), extra=st.booleans())
def test_the_history_gives_the_fingerprint_of_a_request_without_uploads(request, form, extra):
    body = {**request.body(), **({"webhook": None, "safety": True} if extra else {})}
    inputs = {"negative_prompt": "", **read_inputs(form(body))}
    assert fingerprint_of(inputs, [], "https://api.example") == request.fingerprint([], "https://api.example")


def test_an_outline_is_everything_but_which_images():
    def of(urls, **changes):
        return outline(read_inputs(KleinRequest(**{"prompt": "p", **changes}).body(urls)))

    assert of(["https://a/1", "https://a/2"]) == of(["", ""]) == of(["https://a/9"], image_urls=["https://b.example/2"])
    assert len({of([]), of([""]), of(["", ""]), of([""], seed=1), of([""], prompt="q")}) == 5
    assert outline({"prompt": "p", "image_urls": 7}) == outline({"prompt": "p"})


def test_ten_references_are_accepted_from_wherever_they_come():
    refuse_too_many_references({"image_1": 4, "image_3": 5, "image_urls": 1})


def test_more_are_refused_with_how_many_came_from_where():
    with pytest.raises(BadInput) as said:
        refuse_too_many_references({"image_1": 8, "image_2": 0, "image_3": 1, "image_urls": 2})
    assert "11 reference images (8 from image_1, 1 from image_3, 2 from image_urls)" in said.value.what
    assert "at most 10" in said.value.what and said.value.money == NOTHING_SENT
    assert "every frame of a batch counts as one" in said.value.todo
