import pytest

from klein9b.klein.variant import Variant, decide_variant, guess_variant


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("flux-2-klein-9b", "distilled"),
        ("flux-2-klein-9b-fp8", "distilled"),
        ("flux-2-klein-9b-nvfp4", "distilled"),
        ("FLUX.2-klein-9B", "distilled"),
        ("flux-2-klein-base-9b", "base"),
        ("flux-2-klein-base-9b-fp8", "base"),
        ("FLUX.2-klein-base-9B", "base"),
        ("flux-2-klein-9b-kv", "kv"),
        ("flux-2-klein-9b-kv-fp8", "kv"),
        ("flux-2-klein-9b-kv-int8-convrot", "kv"),
        ("my-klein-9b-distilled-merge", "distilled"),
        ("klein-9b-undistilled", "base"),
        ("Flux2-Klein-9B-True-v2-bf16", "unknown"),
        ("model", "unknown"),
        ("database", "unknown"),
    ],
)
def test_file_names(stem, name):
    assert guess_variant(stem, {}).name == name


def test_metadata_outweigh_the_file_name():
    own = guess_variant("flux-2-klein-9b", {"klein_variant": "kv"})
    titled = guess_variant("flux-2-klein-9b", {"modelspec.title": "FLUX.2 klein base 9B"})
    assert own == Variant("kv", "its metadata say kv")
    assert titled == Variant("base", "its metadata (modelspec.title) say base")
    assert guess_variant("x-kv", {"klein_variant": "nonsense", "modelspec.title": "mine"}).name == "kv"


def test_the_choice_outweighs_the_guess_and_says_so():
    found = guess_variant("flux-2-klein-base-9b", {})
    assert decide_variant(found, "kv") == Variant("kv", "chosen by you, although its file name says base")
    assert decide_variant(found, "base") == Variant("base", "chosen by you")
    assert decide_variant(found, "auto") is found


def test_auto_with_nothing_known_assumes_distilled_and_admits_it():
    assert decide_variant(guess_variant("model", {}), "auto") == Variant(
        "distilled",
        "assumed, since neither its metadata nor its file name says; choose the variant if it is another",
    )


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="variant is 'turbo', but must be auto, distilled, base, kv"):
        decide_variant(guess_variant("model", {}), "turbo")
