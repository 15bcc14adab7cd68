"""Klein 9B Reference Cache as a person uses it: which models it takes, what it says, what its switches do."""

import pytest
import torch

from host.edits import edit, klein_model, reference, store_of


@pytest.fixture
def node(comfy_host, monkeypatch):
    """Runs the node and collects what it shows."""
    from klein9b.nodes import reference_cache

    shown = []
    monkeypatch.setattr(reference_cache, "show_text", lambda _, text: shown.append(text))

    def run(model, *, storage="model dtype", memory_gib=8.0, keep="between runs", any_model=False, **others):
        execute = reference_cache.Klein9BReferenceCache.execute
        (out,) = execute(model, storage, memory_gib, keep, any_model, **others).args
        return out

    run.shown = shown
    return run


def klein(variant):
    model = klein_model()
    if variant is not None:
        from klein9b.klein.variant import Variant
        from klein9b.nodes.host.loaded_klein import LoadedKlein

        LoadedKlein(files=None, variant=Variant(variant, "its file name says so")).keep_on(model)
    return model


def test_what_another_pack_left_under_our_name_is_not_believed(node):
    model = klein(None)
    model.set_attachments("klein9b", "kv")
    assert node(model) is model and "Klein 9B Loader" in node.shown[0]


def refs(*seeds):
    return [reference(s) for s in seeds or (1, 2)]


def test_klein_kv_is_taken(node):
    model = klein("kv")
    out = node(model)
    assert out is not model and node.shown == []
    edit(out, refs(), steps=1)
    assert node.shown[-1].splitlines()[0].startswith("miss: 2 references, 0.00 GiB held")
    assert "approximate" not in node.shown[-1]


@pytest.mark.parametrize(("variant", "why"), [("distilled", "klein-9b distilled"), ("base", "klein-9b base")])
def test_other_weights_pass_through_and_are_told_how(node, variant, why):
    model = klein(variant)
    assert node(model) is model
    (text,) = node.shown
    assert text.startswith("OFF: ") and why in text and "flux-2-klein-9b-kv" in text and "any_model" in text


def test_an_unknown_model_passes_through_and_is_told_how(node):
    model = klein(None)
    assert node(model) is model
    (text,) = node.shown
    assert "Klein 9B Loader" in text and "any_model" in text


@pytest.mark.parametrize("variant", ["distilled", "base", None])
def test_any_model_on_is_labelled_approximate(node, variant):
    out = node(klein(variant), any_model=True)
    edit(out, refs(), steps=1)
    assert "approximate: " in node.shown[-1]


def outcomes(shown):
    return [text.split(":")[0] for text in shown]


def test_between_runs_and_this_run(node):
    model = klein("kv")
    between, this = node(model), node(model, keep="this run")
    for out in (between, between, this, this, between):
        edit(out, refs(), steps=1)
    # "this run" also drops what earlier runs kept: that is what frees the memory.
    assert outcomes(node.shown) == ["miss", "hit", "miss", "miss", "miss"]


def test_another_node_on_the_same_model_shares_what_is_kept(node):
    model = klein("kv")
    edit(node(model), refs(), steps=1)
    edit(node(model, memory_gib=4.0), refs(), steps=1)
    assert outcomes(node.shown) == ["miss", "hit"]


def test_the_node_twice_in_a_row_is_the_node_once(node):
    model = klein("kv")
    wanted = edit(node(model), refs(), steps=1)
    assert torch.equal(edit(node(node(model), storage="model dtype"), refs(), steps=1), wanted)
    assert outcomes(node.shown) == ["miss", "hit"]


def test_every_change_that_matters_is_a_miss(node):
    model = klein("kv")
    out = node(model)
    a, b = refs()
    pixel = a.clone()
    pixel[0, 0, 0, 0] += 1e-3
    for references in ([a, b], [b, a], [pixel, b], [a[:, :, :-1], b], [a], [a, b]):
        edit(out, references, steps=1)
    edit(node(model, storage="int8"), [a, b], steps=1)
    half = out.clone()
    half.set_model_compute_dtype(torch.bfloat16)
    edit(half, [a, b], steps=1)
    edit(node(klein("kv")), [a, b], steps=1)
    assert outcomes(node.shown) == ["miss"] * 5 + ["hit"] + ["miss"] * 3


def test_an_added_reference_is_said(node):
    out = node(klein("kv"))
    edit(out, refs(1), steps=1)
    assert "a reference was added" not in node.shown[-1]
    edit(out, refs(1, 2), steps=1)
    assert "a reference was added: all were computed again" in node.shown[-1]
    edit(out, refs(1, 2), steps=1)
    assert node.shown[-1].startswith("hit: 2 references")
    assert node.shown[-1].endswith(" s saved")


def test_a_budget_that_is_too_small_is_said(node):
    model = klein("kv")
    small = node(model, memory_gib=1e-5)
    for _ in range(2):
        edit(small, refs(), steps=1)
        assert node.shown[-1].startswith("miss") and "over memory_gib and are freed: raise it" in node.shown[-1]
    for enough in (node(model), node(model, keep="this run")):
        edit(enough, refs(), steps=1)
        assert "memory_gib" not in node.shown[-1]


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_fewer_bits_are_labelled_approximate(node, storage):
    edit(node(klein("kv"), storage=storage), refs(), steps=1)
    assert node.shown[-1].endswith(f"approximate: {storage} rounds what is kept of the references")


def test_no_placement_moves_the_picture_or_the_key(node):
    model = klein("kv")
    wanted = edit(node(model), refs(), steps=2)
    for placement in ("auto", "gpu", "cpu"):
        assert torch.equal(edit(node(model, placement=placement), refs(), steps=2), wanted)
    assert outcomes(node.shown) == ["miss"] + ["hit"] * 3


def test_placement_reaches_the_store(node):
    from klein9b.klein.kv_store import Placement

    model = klein("kv")
    for placement in ("cpu", "gpu", "auto"):
        edit(node(model, placement=placement), refs(), steps=1)
        assert store_of(model).placement is Placement(placement)
    edit(node(model), refs(), steps=1)
    assert store_of(model).placement is Placement.AUTO
