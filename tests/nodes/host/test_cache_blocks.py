"""References reach every block, whoever evaluates it; the last block leaves out what nobody reads wherever it can."""

import logging

import pytest
import torch

from host.edits import cached, edit, klein_model, normal, prompt, reference, relative
from klein9b.klein.transformer import EVERY_TOKEN
from standins.quantised import FORMATS

# Two orders of float32 sums; see test_cache_run.py. References left out show as 5e-3 and more.
SAME_MATHS = 1e-5
PICTURE, TEXT = 28, 512
FIRST, LAST = ("double_block", 0), ("single_block", 1)


@pytest.fixture
def model(comfy_host):
    return klein_model()


def refs():
    return [reference(1), reference(2, 4, 8)]


def replaced(model, place, replacement):
    patched = model.clone()
    patched.set_model_patch_replace(replacement, "dit", *place)
    return patched


def passing(args, extra):
    return extra["original_block"](args)


def tokens_of_the_last_block(model):
    """How many tokens it computes, evaluation by evaluation from here on."""
    seen = []
    last = model.model.diffusion_model.single_blocks[-1]
    last.linear2.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    return seen


def whole_last_block(model, call):
    """What a call gives while the last block has a forward of its own, which keeps it whole."""
    last = model.model.diffusion_model.single_blocks[-1]
    last.forward = last.forward
    try:
        return call()
    finally:
        del last.forward


class TestTheLastBlock:
    def test_computes_the_pictures_tokens_only(self, model):
        seen = tokens_of_the_last_block(model)
        edit(cached(model)[0], refs())
        assert seen == [PICTURE] * 2

    @pytest.mark.parametrize("place", [FIRST, ("single_block", 0)])
    def test_also_beside_a_replacement_of_another_block(self, model, caplog, place):
        wanted = edit(cached(model)[0], refs())
        seen = tokens_of_the_last_block(model)
        ours, shown = cached(replaced(model, place, passing))
        assert torch.equal(edit(ours, refs()), wanted)
        assert seen == [PICTURE] * 2 and shown[-1].startswith("hit") and not caplog.records

    def test_also_beside_another_blocks_own_forward(self, model):
        wanted = edit(cached(model)[0], refs())
        seen = tokens_of_the_last_block(model)
        block = model.model.diffusion_model.double_blocks[0]
        block.forward = block.forward
        assert torch.equal(edit(cached(model)[0], refs()), wanted)
        assert seen == [PICTURE] * 2

    @pytest.mark.parametrize("format", FORMATS)
    def test_also_on_quantised_weights(self, comfy_host, format):
        model = klein_model(quantised_as=format)
        from comfy.quant_ops import QuantizedTensor

        assert isinstance(model.model.diffusion_model.single_blocks[-1].linear1.weight, QuantizedTensor)
        whole = whole_last_block(model, lambda: edit(cached(model)[0], refs()))
        seen = tokens_of_the_last_block(model)
        ours, shown = cached(model)
        assert torch.equal(edit(ours, refs()), whole)
        assert seen == [PICTURE] * 2 and shown[-1].startswith("hit")

    def test_also_with_something_hung_onto_its_first_layer(self, model):
        linear = model.model.diffusion_model.single_blocks[-1].linear1
        linear.register_forward_hook(lambda _, __, out: out * 1.25)
        whole = whole_last_block(model, lambda: edit(cached(model)[0], refs()))
        seen = tokens_of_the_last_block(model)
        assert relative(edit(cached(model)[0], refs()), whole) < SAME_MATHS
        assert seen == [PICTURE] * 2

    @pytest.mark.parametrize("how", ["replacement", "forward", "hook"])
    def test_is_whole_where_another_node_changes_it_and_the_log_says_so_once(self, model, caplog, how):
        wanted = edit(cached(model)[0], refs())
        seen, last = tokens_of_the_last_block(model), model.model.diffusion_model.single_blocks[-1]
        if how == "forward":
            last.forward = last.forward
        if how == "hook":
            last.register_forward_hook(lambda *_: None)
        ours, shown = cached(replaced(model, LAST, passing) if how == "replacement" else model)
        with caplog.at_level(logging.INFO, "klein9b"):
            got = edit(ours, refs(), steps=2)
        assert relative(got, wanted) < SAME_MATHS and shown[-1].startswith("hit")
        assert seen == [TEXT + PICTURE] * 2
        said = [record.getMessage() for record in caplog.records if "the last block" in record.getMessage()]
        assert len(said) == 1 and "another node changes" in said[0]


class TestABlockOfOurs:
    """What Klein 9B's own nodes put into patches_replace."""

    def placed(self, model, *, only=None):
        """The model with blocks of ours at every place, and what each was given, evaluation by evaluation."""
        from klein9b.nodes.host.own_blocks import OwnBlock, block_at, own_block, places

        given = []

        class Noting(OwnBlock):
            def __init__(self, place, block):
                super().__init__(block)
                self.place, self.inner = place, own_block(place, block)

            def evaluate(self, args, *, reference=None, computed=EVERY_TOKEN):
                given.append((self.place, reference and reference.pair, computed, args["transformer_options"]))
                return self.inner.evaluate(args, reference=reference, computed=computed)

        diffusion_model = model.model.diffusion_model
        for place in only or places(diffusion_model):
            model = replaced(model, place, Noting(place, block_at(diffusion_model, place)))
        return model, given

    def test_gets_its_references_as_an_argument(self, model, caplog):
        wanted = edit(cached(model)[0], refs())
        placed, given = self.placed(model)
        ours, shown = cached(placed)
        assert torch.equal(edit(ours, refs(), steps=2), wanted)
        assert shown[-1].startswith("hit") and not caplog.records
        assert [index for (_, index), *_ in given] == [0, 1, 0, 1] * 2
        for _, (key, value), _, _ in given:
            assert key.shape == value.shape == (1, 2, 30 + 32, 128)
        assert [computed.first for _, _, computed, _ in given] == [0, 0, 0, TEXT] * 2

    def test_sees_no_patch_of_the_caches(self, model):
        """It would have to stand aside for one, and cache and acceleration would cancel each other."""
        placed, given = self.placed(model)
        edit(cached(placed)[0], refs())
        assert given and all(not options.get("patches") for *_, options in given)

    def test_beside_the_hosts_own_blocks(self, model):
        wanted = edit(cached(model)[0], refs())
        placed, given = self.placed(model, only=[("double_block", 1)])
        assert torch.equal(edit(cached(placed)[0], refs()), wanted)
        assert len(given) == 2 and all(reference is not None for _, reference, _, _ in given)

    def test_is_the_hosts_block_without_a_cache(self, model):
        placed, given = self.placed(model)
        assert torch.equal(edit(placed, refs()), edit(model, refs()))
        assert given and all(reference is None for _, reference, _, _ in given)

    def test_leaves_an_attention_mask_to_the_hosts_block(self, model):
        placed, given = self.placed(model, only=[FIRST])
        mask = torch.zeros(1, 1, TEXT + PICTURE, TEXT + PICTURE)
        mask[..., :100] = -1e4

        def evaluated(one):
            diffusion_model, options = one.model.diffusion_model, one.model_options["transformer_options"]
            with torch.inference_mode():
                return diffusion_model(
                    normal(1, 128, 4, 7, seed=3), torch.ones(1), prompt(), attention_mask=mask,
                    transformer_options=options,
                )  # fmt: skip

        masked = evaluated(placed)
        assert torch.equal(masked, evaluated(model)) and not given
