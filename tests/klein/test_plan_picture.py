"""The plan's bars are as long as its bytes."""

import dataclasses

import numpy as np
import pytest
from PIL import ImageColor

from klein9b.klein import plan_picture
from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.official_files import encoder_file, model_file, vae_file
from klein9b.klein.plan import Files, Plan
from klein9b.klein.plan_picture import WIDTH, draw_plan
from klein9b.klein.residency import GIB, imagined_card
from klein9b.klein.vram import Job

MEGAPIXEL = Size(1024, 1024)


def plan(model="flux-2-klein-9b-fp8", gib=12, references=2, cache=None, size=MEGAPIXEL, batch=1):
    files = Files(
        model_file(f"{model}.safetensors", None), encoder_file("qwen_3_8b_fp4mixed", None), vae_file("flux2-vae", None)
    )
    return Plan(files, Job(size, (MEGAPIXEL,) * references, batch, cache=cache), imagined_card(gib, 32 * GIB))


def longest(picture, colour):
    """Pixels of this colour in the row that has most of it."""
    return (np.asarray(picture) == ImageColor.getrgb(colour)).all(axis=-1).sum(axis=1).max()


def area(shown, colour):
    return (np.asarray(draw_plan(shown)) == ImageColor.getrgb(colour)).all(axis=-1).sum()


CASES = {
    "it fits": plan(),
    "it streams": plan("flux-2-klein-9b", 8),
    "next to nothing is there": plan(gib=1),
    "a cache larger than the card": plan("flux-2-klein-9b-kv-fp8", 12, 10, Storage.MODEL),
    "it does not fit": plan(gib=4, references=10, size=Size(4096, 4096)),
    "it does not fit by far": plan(gib=4, references=10, size=Size(4096, 4096), batch=64),
    "an unknown model": plan("mine"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_is_drawn_outside(case):
    picture = np.asarray(draw_plan(case))
    assert picture.shape[1] == WIDTH and picture.dtype == np.uint8
    paper = np.array(ImageColor.getrgb(plan_picture._PAPER))
    border = [picture[:8].reshape(-1, 3), picture[-8:].reshape(-1, 3), picture[:, :8].reshape(-1, 3)]
    border.append(picture[:, -8:].reshape(-1, 3))
    assert all((side == paper).all() for side in border)


def test_bars_are_as_long_as_their_bytes():
    shown = plan()
    picture = draw_plan(shown)
    words, model = longest(picture, plan_picture._WORDS), longest(picture, plan_picture._MODEL)
    assert words / model == pytest.approx(shown.files.encoder.nbytes / shown.kept.resident, rel=0.02)


def test_what_streams_is_not_filled():
    streaming = plan("flux-2-klein-9b", 8)
    whole = dataclasses.replace(streaming, card=imagined_card(48, 64 * GIB))
    filled, all_of_it = (area(one, plan_picture._MODEL) / area(one, plan_picture._WORDS) for one in (streaming, whole))
    assert filled < all_of_it / 2


def test_the_title_says_whether_it_fits():
    good, slow = (ImageColor.getrgb(colour) for colour in (plan_picture._GOOD, plan_picture._SLOW))
    at = plan_picture._MARGIN + 25, plan_picture._MARGIN + 8
    assert tuple(np.asarray(draw_plan(CASES["it fits"]))[at]) == good
    assert tuple(np.asarray(draw_plan(CASES["it streams"]))[at]) == slow
