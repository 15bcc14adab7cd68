"""The plan in words and bars, for the cards people have."""

import dataclasses
import re

import numpy as np
import pytest

from klein9b.klein.framing import Size
from klein9b.klein.kv_store import Storage
from klein9b.klein.official_files import encoder_file, model_file, vae_file
from klein9b.klein.plan import NOT_MEASURED, Files, Plan, report, verdict
from klein9b.klein.plan_picture import WIDTH, draw_plan
from klein9b.klein.residency import GIB, Card, imagined_card
from klein9b.klein.tiles import Tiling, pixels
from klein9b.klein.vram import Job

MEGAPIXEL = Size(1024, 1024)
FP8 = "qwen_3_8b_fp8mixed.safetensors"


def plan(model="flux-2-klein-9b", gib=12, references=0, cache=None, size=MEGAPIXEL, ram=32, encoder=FP8, **changes):
    files = Files(model_file(f"{model}.safetensors", None), encoder_file(encoder, None), vae_file("flux2-vae", None))
    job = Job(size, (MEGAPIXEL,) * references, cache=cache, **changes)
    return Plan(files, job, Card("", gib * GIB, gib * GIB, ram * GIB))


class TestTheVerdict:
    def test_it_fits(self):
        assert verdict(plan("flux-2-klein-9b-fp8")).startswith("It fits: the whole model stays in VRAM")

    def test_the_cheapest_file_that_makes_it_fit(self):
        words = "flux-2-klein-9b-fp8 (9.43 GB): everything resident."
        assert verdict(plan()).endswith(words) and "come to the card in every step" in verdict(plan())

    def test_the_cache_is_made_smaller_before_the_model(self):
        assert verdict(plan("flux-2-klein-9b-kv-fp8", 20, 3, Storage.MODEL)).endswith(
            "3 references keep 6.4 GB, int8 3.3 GB: everything resident."
        )

    def test_the_best_of_what_does_not_suffice(self):
        assert re.search(r"flux-2-klein-9b-nvfp4 \(5.76 GB\): \d\.\d GB a step\.", verdict(plan(gib=8, references=2)))

    def test_nothing_helps_where_nothing_is_left(self):
        assert verdict(plan("flux-2-klein-9b-kv-fp8", 8)).endswith("in every step.")

    def test_it_does_not_fit(self):
        huge = plan(gib=6, references=10, size=Size(4096, 4096))
        assert "even with every weight streamed" in verdict(huge) and not huge.fits

    def test_the_model_is_unknown(self):
        assert "whose size is not known" in verdict(plan("mine"))

    def test_a_processor_has_its_ram(self):
        there = plan("flux-2-klein-9b-fp8")
        there = dataclasses.replace(there, card=dataclasses.replace(there.card, is_processor=True))
        assert verdict(there).startswith("It fits the RAM")
        short = dataclasses.replace(there, card=dataclasses.replace(there.card, ram=8 * GIB))
        assert verdict(short).startswith("It does not fit the RAM")


def test_the_report_begins_with_the_verdict_and_promises_no_seconds():
    lines = report(plan(references=2, cache=Storage.INT8)).splitlines()
    assert lines[0] == verdict(plan(references=2, cache=Storage.INT8)) and lines[1] == ""
    assert NOT_MEASURED in lines and all(line.isascii() for line in lines)
    assert any(line.startswith("Reference cache: 2.2 GB (int8)") for line in lines)


def test_a_part_that_is_not_known_is_left_out_and_said():
    text = report(plan(encoder="mine.safetensors"))
    assert "Text encoder" not in text and text.endswith("mine.safetensors is not there and none of the official "
                                                        "files, so its size is not known.")  # fmt: skip


def test_more_memory_keeps_more_and_streams_less():
    plans = [plan(gib=gib) for gib in (6, 8, 10, 12, 16, 20, 24, 32)]
    kept = [one.kept.resident for one in plans]
    assert kept == sorted(kept) and plans[-1].streamed == 0
    assert all(one.kept.resident + one.streamed == one.files.model.nbytes for one in plans)


@pytest.mark.parametrize("gib", [8, 12, 16, 24])
@pytest.mark.parametrize("references", [0, 2, 4])
def test_what_is_on_the_card_while_sampling_is_no_more_than_the_card(gib, references):
    for model in ("flux-2-klein-9b", "flux-2-klein-9b-kv-fp8"):
        for cache in (None, Storage.INT8):
            assert plan(model, gib, references, cache).in_use <= gib * GIB


def test_dynamic_vram_keeps_what_the_estimate_would_have_turned_out():
    classic = plan(gib=12, references=4)
    dynamic = dataclasses.replace(classic, card=dataclasses.replace(classic.card, dynamic=True))
    assert dynamic.kept.resident > classic.kept.resident
    assert dynamic.in_use <= dynamic.card.free


def test_prompt_and_negative_are_evaluated_at_once_only_where_there_is_room():
    assert plan("flux-2-klein-9b-fp8", 24, guided=True).side_by_side
    tight = plan("flux-2-klein-9b", 12, guided=True)
    assert not tight.side_by_side and tight.activations == plan("flux-2-klein-9b", 12).activations


class TestThePicture:
    PLANS = (
        plan(),
        plan("flux-2-klein-9b-fp8", 16, 4, Storage.INT8),
        plan("mine", encoder="mine"),
        plan(gib=6, references=10, size=Size(4096, 4096), batch=8),
    )

    @pytest.mark.parametrize("one", PLANS, ids=["streams", "cached", "unknown", "does not fit"])
    def test_it_is_drawn(self, one):
        picture = draw_plan(one)
        assert picture.mode == "RGB" and picture.width == WIDTH and 300 < picture.height < 900

    def test_more_model_on_the_card_is_more_blue(self):
        blue = [(np.asarray(draw_plan(plan(gib=gib))) == (0x5B, 0x9C, 0xF5)).all(-1).sum() for gib in (8, 24)]
        assert 2 * blue[0] < blue[1]


class TestTiles:
    """4096x4096 on a card of 12 GB: one tile of Klein 9B Tiles is there at once, with its part of image 1."""

    HUGE = Size(4096, 4096)
    TILE = pixels(Tiling(64, 8).tiles(256, 256).size)

    def on_12_gb(self, *sizes, **changes):
        there = plan("flux-2-klein-9b-fp8", encoder="qwen_3_8b_fp4mixed.safetensors")
        return dataclasses.replace(there, job=Job(sizes[0], sizes, **changes), card=imagined_card(12, 32 * GIB))

    @pytest.mark.parametrize("others", [0, 1])
    def test_a_tile_fits_with_nothing_streamed(self, others):
        fits = self.on_12_gb(self.TILE, *[MEGAPIXEL] * others)
        assert fits.is_whole and fits.in_use < fits.card.free
        assert verdict(fits).startswith("It fits: the whole model stays in VRAM")

    def test_the_picture_whole_does_not(self):
        whole = self.on_12_gb(self.HUGE)
        assert not whole.fits and whole.activations > 15 * self.on_12_gb(self.TILE).activations

    def test_with_the_cache_too(self):
        """Of one tile; what the other tiles keep lies in RAM as far as that has room."""
        assert self.on_12_gb(self.TILE, cache=Storage.INT4).is_whole

    def test_the_vae_needs_tiles_too(self):
        whole, tile = (self.on_12_gb(size) for size in (self.HUGE, Size(512, 512)))
        assert whole.decode > whole.card.free > 20 * tile.decode
        assert whole.encode > whole.card.free > 20 * tile.encode
