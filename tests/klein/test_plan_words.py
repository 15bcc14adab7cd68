"""The plan in words."""

from planned import plan

from klein9b.klein.kv_store import Storage
from klein9b.klein.plan import GIB, RAM, Card, cheapest_change
from klein9b.klein.plan_words import advice, asked, plan_in_words, verdict
from klein9b.klein.planned_files import smaller_files

FP8, BF16 = "flux-2-klein-9b-fp8", "flux-2-klein-9b"
KV = "flux-2-klein-9b-kv"


def change(plan):
    return cheapest_change(plan, smaller_files(plan.models.diffusion_model.name))


def words(plan):
    return plan_in_words(plan, change(plan))


def test_what_fits_is_said_first():
    text = words(plan(12, FP8, references=2))
    assert text.startswith(
        "Fits: everything stays on the card while it samples.\n\n1024x1024, 2 references of 1024x1024"
    )
    assert "in 12.0 GiB of VRAM, 10.9 GiB of it usable, and 32.0 GiB of RAM\n" in text
    assert "\nsampling: 10.7 GiB (diffusion model 8.8, activations 2.0)\n" in text
    assert "A new prompt moves the text encoder's 5.0 GiB to the card; a repeated one moves nothing." in text
    assert "To download: 16.6 GB (flux-2-klein-9b-fp8.safetensors 9.4, qwen_3_8b_fp4mixed.safetensors 6.8," in text
    assert "GiB streamed" not in text and "RAM is short" not in text


def test_what_streams_is_timed_and_the_change_is_named():
    streams = plan(12, BF16)
    assert verdict(streams, change(streams)) == (
        "Runs, streaming 7.2 GiB a step: 0.35 s at 22 GB/s, hidden where a step takes longer. "
        "flux-2-klein-9b-fp8.safetensors instead of flux-2-klein-9b.safetensors: everything stays."
    )
    assert ", 7.2 GiB streamed\n" in words(streams)


def test_a_change_that_is_not_enough_says_what_is_left():
    assert advice(change(plan(8, BF16, references=2))).endswith(
        "instead of flux-2-klein-9b.safetensors: 0.6 GiB a step."
    )
    assert advice(change(plan(24, KV, references=3, cache=Storage.MODEL))).startswith("Int8 for the references' cache")


def test_what_does_not_fit_says_what_it_lacks():
    lacks = plan(1.5, FP8)
    text = verdict(lacks, change(lacks))
    assert text.startswith("Does not fit: sampling lacks 0.8 GiB even with its weights streamed.")
    nothing = Card(4 * GIB, 0, 8 * GIB)
    assert verdict(plan(nothing, FP8), None).startswith("Does not fit: encoding the prompt lacks 0.4 GiB")


def test_short_ram_is_told():
    machine = Card(8 * GIB, 7 * GIB, 16 * GIB)
    short = words(plan(machine, BF16))
    assert "RAM is short of the 16.1 GiB that leave the card: they are read from disk again each time." in short
    assert "RAM is short" not in words(plan(machine, FP8))


def test_an_encoder_that_stays_is_told():
    assert "The text encoder stays beside the model: a new prompt moves nothing." in words(plan(24, FP8))


def test_without_a_card_ram_is_meant():
    whole = words(plan(Card(32 * GIB, 28 * GIB, 32 * GIB, memory=RAM), FP8))
    assert whole.startswith("Fits: everything stays in RAM") and "card" not in whole.removesuffix("on this card.")
    assert " in 32.0 GiB of RAM, 28.0 GiB of it usable\n" in whole and "VRAM" not in whole
    part = words(plan(Card(8 * GIB, 6 * GIB, 8 * GIB, memory=RAM), FP8))
    assert part.startswith("Runs, reading 4.0 GiB from disk in every step: very slow.")
    assert "A new prompt reads the text encoder's 5.0 GiB from disk" in part and "RAM is short" not in part


def test_the_question_is_repeated():
    assert asked(plan(12, FP8, references=1)) == "1024x1024, 1 reference of 1024x1024"
    assert asked(plan(12, FP8, batch=3, guided=True)) == "1024x1024, batch 3, cfg"
