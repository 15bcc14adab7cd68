"""Our blocks with the host's functions, bit for bit the host's own blocks on the same weights."""

from dataclasses import asdict

import pytest
import torch
from torch.nn.functional import rms_norm

from host.edits import klein_model, normal, prompt
from klein9b.klein.transformer import Features, Span, Stream, double_block, single_block
from standins.plain_klein import Pair

HIDDEN, HEADS, HEAD_DIM = 256, 2, 128
TEXT, IMAGE, REFERENCES = 5, 21, 7

pytestmark = pytest.mark.usefixtures("comfy_host")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
batches = pytest.mark.parametrize("batch", [1, 2])
references = pytest.mark.parametrize("rows", [0, 1, 2], ids=["no reference", "one for all rows", "one a row"])
# Weights in the dtype of the maths, and float32 weights that the host casts in every call.
kinds = pytest.mark.parametrize("kind", ["disable_weight_init", "manual_cast"])


def flux(dtype, kind="disable_weight_init"):
    """The host's transformer with the stand-in's weights."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    loaded = klein_model().model.diffusion_model
    kept = dtype if kind == "disable_weight_init" else torch.float32
    model = Flux(**asdict(loaded.params), dtype=kept, device="cpu", operations=getattr(comfy.ops, kind))
    model.load_state_dict(loaded.state_dict())
    return model.requires_grad_(False)


def functions(options=None):
    from klein9b.nodes.host.block_functions import host_functions

    return host_functions(options or {})


def drawn(*shape, seed, dtype):
    return normal(*shape, seed=seed).to(dtype)


def reference(rows, dtype):
    return tuple(drawn(rows, HEADS, REFERENCES, HEAD_DIM, seed=seed, dtype=dtype) for seed in (5, 6)) if rows else None


def with_reference(pair):
    """Options with which a stock block attends to further keys and values."""
    if pair is None:
        return {}

    def patch(q, k, v, *, pe, attn_mask, **_):
        from comfy.ldm.flux.math import apply_rope

        q, k = apply_rope(q, k, pe)
        keys, values = (
            torch.cat((own, more.expand(own.shape[0], -1, -1, -1)), dim=2) for own, more in zip((k, v), pair)
        )
        return {"q": q, "k": keys, "v": values, "pe": None, "attn_mask": attn_mask}

    return {"patches": {"attn1_patch": [patch]}}


class Given:
    """Both streams, the timestep's modulations and the position table."""

    def __init__(self, model, dtype, batch):
        self.txt, self.img = (drawn(batch, t, HIDDEN, seed=t, dtype=dtype) for t in (TEXT, IMAGE))
        vec = drawn(batch, HIDDEN, seed=3, dtype=dtype)
        self.txt_mods = model.double_stream_modulation_txt(vec)
        self.img_mods = model.double_stream_modulation_img(vec)
        self.mod, _ = model.single_stream_modulation(vec)
        positions = torch.arange(batch * (TEXT + IMAGE) * 4).reshape(batch, TEXT + IMAGE, 4).float() % 13
        self.pe = model.pe_embedder(positions)


@torch.inference_mode()
@kinds
@dtypes
@batches
@references
def test_a_double_block(kind, dtype, batch, rows):
    model, pair = flux(dtype, kind), reference(min(rows, batch), dtype)
    block, given = model.double_blocks[1], Given(model, dtype, batch)
    streams = Stream("txt", given.txt.clone(), given.txt_mods), Stream("img", given.img.clone(), given.img_mods)
    double_block(block, streams, given.pe, functions(), reference=pair and Pair(*pair))
    vec = given.img_mods, given.txt_mods
    img, txt = block(given.img, given.txt, vec, given.pe, transformer_options=with_reference(pair))
    assert torch.equal(streams[0].x, txt) and torch.equal(streams[1].x, img)


@torch.inference_mode()
@kinds
@dtypes
@batches
@references
def test_a_single_block(kind, dtype, batch, rows):
    model, pair = flux(dtype, kind), reference(min(rows, batch), dtype)
    block, given = model.single_blocks[1], Given(model, dtype, batch)
    x = torch.cat((given.txt, given.img), dim=1)
    ours = x.clone()
    single_block(block, ours, given.mod, given.pe, functions(), reference=pair and Pair(*pair))
    assert torch.equal(ours, block(x, given.mod, given.pe, transformer_options=with_reference(pair)))


@torch.inference_mode()
@kinds
@dtypes
def test_a_model_all_of_whose_blocks_are_ours(kind, dtype):
    model = flux(dtype, kind)
    assert torch.equal(whole_model(model, dtype, ours=True), whole_model(model, dtype, ours=False))


@torch.inference_mode()
def test_float16_that_overflows_in_both_kinds_of_block():
    model, outputs = flux(torch.float16), []
    loud = ("double_blocks.0.img_mlp.2", "double_blocks.0.txt_mlp.2", "single_blocks.0.linear2")
    for name in loud:
        layer = model.get_submodule(name)
        layer.weight.mul_(3e5)
        layer.register_forward_hook(lambda _, __, out: outputs.append(out))
    ours, stock = (whole_model(model, torch.float16, ours=ours) for ours in (True, False))
    assert all(out.isinf().any() for out in outputs) and len(outputs) == 2 * len(loud)
    assert torch.equal(ours, stock)


def whole_model(model, dtype, *, ours):
    """One evaluation with two references in the picture's stream, as the stock graph has them."""
    latents = [drawn(2, 128, h, w, seed=h, dtype=dtype) for h, w in ((3, 5), (1, 7))]
    options = {"patches_replace": {"dit": our_blocks(model)}} if ours else {}
    return model(
        drawn(2, 128, 5, 3, seed=1, dtype=dtype),
        torch.tensor([0.7, 0.2], dtype=dtype),
        prompt(tokens=9).expand(2, -1, -1).to(dtype),
        ref_latents=latents,
        transformer_options=options,
    )


def our_blocks(model):
    from klein9b.nodes.host.own_blocks import block_at, own_block, places

    return {place: own_block(place, block_at(model, place)) for place in places(model)}


class TestNorm:
    """The weight that a block borrows does what the host's module does."""

    def module(self, kind="disable_weight_init", dtype=torch.float32):
        return flux(dtype, kind).single_blocks[0].norm.query_norm

    def same(self, module, dtype):
        from klein9b.nodes.host.block_functions import norm

        x = drawn(1, HEADS, TEXT, HEAD_DIM, seed=8, dtype=dtype)
        got = norm(module, x)
        ours, theirs = rms_norm(x, (HEAD_DIM,), got.weight, got.eps), module(x)
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)

    @kinds
    @dtypes
    def test_as_it_is(self, kind, dtype):
        assert self.same(self.module(kind, dtype), dtype)

    @kinds
    def test_with_a_lora_that_is_added_while_sampling(self, kind):
        module = self.module(kind)
        module.weight_function = [lambda weight: weight * 1.5]
        assert self.same(module, torch.float32) and self.same(module, torch.float16)

    @pytest.mark.filterwarnings("ignore:Mismatch dtype")
    def test_of_another_dtype_that_the_host_does_not_cast(self):
        assert self.same(self.module(dtype=torch.float32), torch.bfloat16)

    def test_the_memory_of_a_cast_may_be_used_again(self, monkeypatch):
        """The host casts into one buffer a stream, so that a second cast overwrites the first."""
        import comfy.ops

        from klein9b.nodes.host.block_functions import norm

        buffer, like = torch.empty(HEAD_DIM), drawn(1, 1, 1, HEAD_DIM, seed=8, dtype=torch.float32)
        monkeypatch.setattr(comfy.ops, "cast_bias_weight", lambda s, *_, **__: (buffer.copy_(s.weight), None, None))
        norms = flux(torch.float32, "manual_cast").single_blocks[0].norm
        borrowed = [norm(module, like) for module in (norms.query_norm, norms.key_norm)]
        assert torch.equal(borrowed[0].weight, norms.query_norm.weight)
        assert torch.equal(borrowed[1].weight, norms.key_norm.weight)


class TestLinearFeatures:
    def asked(self, linear):
        from klein9b.nodes.host.block_functions import eager_ops, linear_features

        x = drawn(1, 9, HIDDEN, seed=9, dtype=torch.float32)
        wanted = Features(256, 768, Span()), Features(0, 256, Span(5)), Features(768, None, Span(5, 8))
        got, whole = linear_features(linear, x, wanted, ops=eager_ops()), linear(x)
        return got, (whole[..., 256:768], whole[:, 5:, :256], whole[:, 5:8, 768:])

    @kinds
    def test_of_a_plain_layer(self, kind):
        for got, wanted in zip(*self.asked(flux(torch.float32, kind).single_blocks[0].linear1), strict=True):
            assert torch.allclose(got, wanted, atol=1e-5)

    def test_of_a_layer_with_something_hung_onto_it(self):
        """It is called once, with all tokens: what hangs there may do anything with them."""
        linear, inputs = flux(torch.float32).single_blocks[0].linear1, []
        linear.register_forward_hook(lambda _, args, out: inputs.append(args[0].shape[1]) or out * 2)
        for got, wanted in zip(*self.asked(linear), strict=True):
            assert torch.equal(got, wanted)
        assert inputs == [9, 9]
