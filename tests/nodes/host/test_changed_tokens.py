"""Tokens taken out and added before the first block, and what the cache and kept position tables make of that patch."""

import pytest
import torch

from host.edits import cached, edit, klein_model, normal, prompt, reference

pytestmark = pytest.mark.usefixtures("comfy_host")


def changed(kept=(None, None), text=5, negative=0, whole=(6, 4), picture=(2, 3)):
    from klein9b.klein.attention_plan import Layout
    from klein9b.nodes.host.changed_tokens import ChangedTokens

    counts = tuple(size if one is None else len(one) for size, one in zip(whole, kept))
    return ChangedTokens(Layout(text, negative, picture, counts), whole, tuple(kept))


def given(tokens=16, text=5):
    """What the host hands a patch: every token and position is a number of its own."""
    return {
        "img": torch.arange(tokens)[None, :, None],
        "txt": torch.arange(text)[None, :, None],
        "img_ids": 100 + torch.arange(tokens)[None, :, None],
        "txt_ids": torch.arange(text)[None, :, None],
        "transformer_options": {"reference_image_num_tokens": [6, 4]},
    }


def test_tokens_leave_with_their_positions_and_the_others_keep_theirs():
    args = given()
    out = changed((torch.tensor([0, 5]), torch.tensor([2])))(args)
    wanted = [0, 1, 2, 3, 4, 5, 6, 11, 14]
    assert out["img"].flatten().tolist() == wanted
    assert out["img_ids"].flatten().tolist() == [100 + one for one in wanted]
    assert out["transformer_options"]["reference_image_num_tokens"] == [2, 1]
    assert torch.equal(out["txt_ids"], args["txt_ids"])


def test_a_whole_reference_leaves():
    out = changed((torch.empty(0, dtype=torch.int64), None))(given())
    assert out["img"].flatten().tolist() == [*range(6), *range(12, 16)]


def test_where_nothing_leaves_nothing_is_copied():
    args = given()
    assert changed()(args) is args


def test_references_whose_keys_come_from_elsewhere_are_not_among_the_tokens():
    args = given(tokens=6)
    out = changed((torch.tensor([1]), None))(args)
    assert torch.equal(out["img"], args["img"]) and torch.equal(out["img_ids"], args["img_ids"])


def test_positions_leave_where_the_hosts_cache_has_taken_the_tokens():
    args = given() | {"img": torch.arange(6)[None, :, None]}
    out = changed((torch.tensor([1]), None))(args)
    assert torch.equal(out["img"], args["img"])
    assert out["img_ids"].flatten().tolist() == [100 + one for one in (*range(6), 7, *range(12, 16))]


@pytest.mark.parametrize("negative", [3, 5, 8])
def test_a_negative_prompt_has_the_prompts_positions(negative):
    """The host numbers tokens on behind the prompt, up to what it was given."""
    out = changed(text=8, negative=negative)(given(text=8 + negative))
    assert out["txt_ids"].flatten().tolist() == [*range(8), *range(negative)]


def test_a_negative_prompt_longer_than_the_prompt():
    out = changed(text=3, negative=5)(given(text=8))
    assert out["txt_ids"].flatten().tolist() == [0, 1, 2, 0, 1, 2, 3, 4]


def test_unknown_tokens_are_a_sentence():
    with pytest.raises(ValueError, match="are 16 tokens, but the first block gets 17"):
        changed((torch.tensor([1]), None))(given(tokens=17))


def key(patches, **options):
    from klein9b.nodes.host.position_tables import tables_key

    model = klein_model().model.diffusion_model
    x, context = normal(1, 128, 2, 3, seed=1), prompt()
    return tables_key(model, x, context, [reference(1)], "index", {"patches": {"post_input": patches}} | options)


def test_tables_of_positions_are_kept_for_the_same_tokens_alone():
    some, other = torch.tensor([0, 5]), torch.tensor([0, 4])
    assert key([changed((some, None))]) == key([changed((some.clone(), None))]) != key([])
    different = [
        changed(), changed((other, None)), changed((None, torch.tensor([0]))), changed(negative=5), changed(text=6),
    ]  # fmt: skip
    keys = [key([one]) for one in (changed((some, None)), *different)]
    assert all(one != other for i, one in enumerate(keys) for other in keys[:i])
    assert None not in keys


def test_a_patch_that_nobody_knows_keeps_no_table():
    assert key([changed(), lambda args: args]) is None


def test_the_cache_steps_aside_for_an_unknown_patch_beside_ours(caplog):
    from klein9b.klein.influence import AttentionSettings, Influence

    model, references = klein_model(), [reference(1), reference(2, 4, 8)]
    asked = AttentionSettings({1: Influence(3.0)})
    patched = model.clone()
    patched.set_model_patch(lambda args: args, "post_input")
    ours, shown = cached(patched)
    got = edit(ours, references, settings=asked)
    assert shown == ["stock path: another node patches post_input, which would no longer see the references"]
    assert torch.equal(got, edit(model, references, settings=asked))


def test_the_hosts_own_cache_beside_settings():
    """It keeps the keys of the first step, with the tokens that were there then."""
    from comfy_extras.nodes_flux import FluxKVCache

    from host.dense_override import densely
    from host.edits import relative
    from klein9b.klein.influence import AttentionSettings, Influence

    kept = torch.ones(6, 5, dtype=torch.bool)
    kept[:3] = False
    references = [reference(1), reference(2, 4, 8)]
    asked = AttentionSettings({1: Influence(3.0, kept=kept)})
    model = klein_model()

    def behind(one):
        return FluxKVCache.execute(one).args[0]

    dense, _ = densely(model, asked, references)
    got = edit(behind(model), references, settings=asked, steps=3)
    assert relative(got, edit(behind(dense), references, steps=3)) <= 1e-5
    assert relative(got, edit(behind(model), references, steps=3)) > 2e-4
