"""Steps and cfg of another training are said, and nothing else is."""

import re

import pytest

from klein9b.klein.training_settings import mistaken_settings
from klein9b.klein.variant import Variant

DISTILLED, BASE, KV = (Variant(name, "chosen by you") for name in ("distilled", "base", "kv"))
ASSUMED = Variant("distilled", "assumed, since nothing says")


@pytest.mark.parametrize(
    ("variant", "steps", "cfg", "said"),
    [
        (DISTILLED, 20, 5.0, "the distilled ones, made for 4 steps at cfg 1; this run has 20 steps at cfg 5. Set"),
        (KV, 1, 5.0, "the kv ones, made for 4 steps at cfg 1; this run has 1 step at cfg 5. Set those, or load a base"),
        (ASSUMED, 20, 5.0, "taken for distilled, made for 4 steps .* or choose variant base if they are"),
        (BASE, 4, 1.0, "the base model, made for 20 steps or more at cfg 5; this run has 4 steps at cfg 1. .* LoRA"),
    ],
)
def test_the_other_models_settings_are_said(variant, steps, cfg, said):
    assert re.search(said, mistaken_settings(variant, steps, cfg))


@pytest.mark.parametrize(
    ("variant", "steps", "cfg"),
    [(DISTILLED, 4, 1.0), (DISTILLED, 20, 1.0), (DISTILLED, 8, 1.5), (KV, 4, 1.0), (BASE, 20, 5.0), (BASE, 50, 1.0)],
)
def test_what_may_be_meant_is_not(variant, steps, cfg):
    assert mistaken_settings(variant, steps, cfg) == ""
