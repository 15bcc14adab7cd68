"""The reference pass in plain torch, against float64 and against diffusers' KV transformer."""

import pytest
import torch
from klein_by_hand import ByHand

from klein9b.klein.kv_pass import reference_keys_values
from standins.plain_klein import AXES, FUNCTIONS, HEAD_DIM, HEADS, drawn, klein, weights_of

WEIGHTS = weights_of()
BLOCKS = 2 + 3
SIZES = ((3, 5), (1, 1), (4, 7))
# The worst block's error by its largest number. Measured 5e-7, 1e-2 and 1.2e-3.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def references(count, dtype=torch.float32):
    """Tokens and positions of so many references, odd in size and number of tokens."""
    tokens, ids = [], []
    for index, (height, width) in enumerate(SIZES[:count]):
        grid = torch.tensor([[10.0 * (index + 1), y, x, 0] for y in range(height) for x in range(width)])
        ids.append(grid[None])
        tokens.append(drawn(1, height * width, 128, seed=index, dtype=dtype))
    return torch.cat(tokens, dim=1), torch.cat(ids, dim=1)


def ours(tokens, ids, dtype=torch.float32):
    return list(reference_keys_values(klein(WEIGHTS, dtype), tokens, ids, FUNCTIONS))


def error(got, wanted):
    """The worst of all blocks' keys and values."""
    pairs = [(a, b) for pair, other in zip(got, wanted, strict=True) for a, b in zip(pair, other, strict=True)]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_the_formula_in_every_block(dtype, count):
    tokens, ids = references(count, dtype)
    got = ours(tokens, ids, dtype)
    assert len(got) == BLOCKS and all(t.dtype == dtype for pair in got for t in pair)
    assert got[0][0].shape == (1, HEADS, tokens.shape[1], HEAD_DIM)
    assert error(got, ByHand(WEIGHTS).reference_keys_values(tokens, ids)) < TOLERANCE[dtype]


def test_another_timestep_would_be_seen():
    tokens, ids = references(2)
    wrong = ByHand(WEIGHTS).reference_keys_values(tokens, ids, timestep=1e-3)
    assert error(ours(tokens, ids), wrong) > 1000 * TOLERANCE[torch.float32]


def test_other_positions_would_be_seen():
    tokens, ids = references(2)
    wrong = ByHand(WEIGHTS).reference_keys_values(tokens, ids.flip(1))
    assert error(ours(tokens, ids), wrong) > 1000 * TOLERANCE[torch.float32]


@pytest.mark.peer
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_diffusers_kv_transformer_in_every_block(count):
    pytest.importorskip("diffusers")
    tokens, ids = references(count)
    assert error(ours(tokens, ids), by_diffusers(tokens, ids)) < TOLERANCE[torch.float32]


def by_diffusers(tokens, ids):
    """What its transformer extracts beside a picture and a prompt, at a timestep of their own."""
    from standins.peers import diffusers_transformer

    picture, prompt = drawn(1, 6, 128, seed=20), drawn(1, 4, 12288, seed=21)
    transformer = diffusers_transformer(WEIGHTS)
    from diffusers.models.transformers import transformer_flux2

    for block in transformer.transformer_blocks:
        block.attn.set_processor(transformer_flux2.Flux2KVAttnProcessor())
    for block in transformer.single_transformer_blocks:
        block.attn.set_processor(transformer_flux2.Flux2KVParallelSelfAttnProcessor())
    with torch.inference_mode():
        _, cache = transformer(
            hidden_states=torch.cat((tokens, picture), dim=1),
            encoder_hidden_states=prompt,
            timestep=torch.tensor([0.7]),
            img_ids=torch.cat((ids, torch.zeros(1, 6, AXES)), dim=1),
            txt_ids=torch.zeros(1, 4, AXES),
            return_dict=False,
            kv_cache_mode="extract",
            num_ref_tokens=tokens.shape[1],
        )
    layers = [*cache.double_block_caches, *cache.single_block_caches]
    return [tuple(t.transpose(1, 2) for t in layer.get()) for layer in layers]


def test_references_see_each_other_from_the_second_block_on():
    (two, ids), first = references(2), SIZES[0][0] * SIZES[0][1]
    alone = ours(two[:, :first], ids[:, :first])
    together = [tuple(t[:, :, :first] for t in pair) for pair in ours(two, ids)]
    assert error(alone[:1], together[:1]) < TOLERANCE[torch.float32]
    assert all(error(alone[i : i + 1], together[i : i + 1]) > 1e-2 for i in range(1, BLOCKS))


def test_a_block_runs_when_its_pair_is_asked_for():
    model, ran = klein(WEIGHTS), []
    for name in ("double_blocks.0.img_attn.qkv", "double_blocks.1.img_attn.qkv", "single_blocks.0.linear1"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name[:15]))
    pairs = reference_keys_values(model, *references(1), FUNCTIONS)
    assert ran == []
    next(pairs)
    assert ran == ["double_blocks.0"]
    next(pairs)
    assert ran == ["double_blocks.0", "double_blocks.1"]
    pairs.close()
    assert len(ran) == 2


def test_a_pair_keeps_no_more_memory_than_its_own():
    for pair in ours(*references(2)):
        assert all(t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes for t in pair)


def test_what_was_given_is_left_alone():
    tokens, ids = references(2)
    before = tokens.clone(), ids.clone()
    ours(tokens, ids)
    assert torch.equal(tokens, before[0]) and torch.equal(ids, before[1])


def test_float16_that_overflows_stays_finite():
    model = klein(WEIGHTS, torch.float16)
    for name in ("double_blocks.1.img_mlp.2", "single_blocks.0.linear2"):
        model.get_submodule(name).weight.mul_(30000)
    tokens, ids = references(2, torch.float16)
    assert all(t.isfinite().all() for pair in reference_keys_values(model, tokens, ids, FUNCTIONS) for t in pair)
