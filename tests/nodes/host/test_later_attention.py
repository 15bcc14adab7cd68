"""The cache on later hosts: attention takes containers, and each block may prefer an attention function.

Their contract is put over the host at hand: blocks hand containers and their preference to flux's attention, which
hands containers on; an override comes before a preference and gets plain tensors unless it asks for containers.
"""

from types import FunctionType

import pytest
import torch

from host.edits import cached, edit, klein_model, reference


class OneOwner:
    """Gives its tensor up once; for hosts that have no AttentionTensorContainer yet."""

    def __init__(self, tensor):
        self.tensor = tensor

    def take(self):
        tensor, self.tensor = self.tensor, None
        assert tensor is not None, "taken twice"
        return tensor


class Preference(torch.nn.Module):
    """What a block has as comfy_attention; a checkpoint or a node chooses the function."""

    function = None


def as_if_written_beside(function, other):
    """The other in the function's module: a later host's own code, not a patch by another pack."""
    made = FunctionType(other.__code__, function.__globals__, function.__name__, closure=other.__closure__)
    made.__kwdefaults__ = other.__kwdefaults__
    return made


class LaterHost:
    """The contract over this host's flux code.

    Attributes:
        preferences: of every attention call, in order.
        to_patches: whether attention patches get containers too.
    """

    def __init__(self, monkeypatch):
        import comfy.ldm.flux.layers as layers
        import comfy.ldm.flux.math as math
        import comfy.ldm.modules.attention as attention

        self.container = getattr(attention, "AttentionTensorContainer", OneOwner)
        self.preferences, self.to_patches, self.running = [], False, []
        self.below, self.rotate = math.optimized_attention, math.apply_rope
        monkeypatch.setattr(math, "attention", self.attention)
        monkeypatch.setattr(math, "optimized_attention", self.optimized_attention)
        monkeypatch.setattr(layers, "attention", self.attention_of_a_block)
        for kind in (layers.DoubleStreamBlock, layers.SingleStreamBlock):
            monkeypatch.setattr(kind, "forward", self.forward(kind.forward))

    def model(self):
        model = klein_model()
        for block in blocks_of(model):
            block.comfy_attention = Preference()
        return model

    def contain(self, *tensors):
        return [self.container(tensor) for tensor in tensors]

    def forward(self, stock):
        def forward(block, *args, transformer_options, **options):
            self.running.append(block)
            patches = dict(transformer_options.get("patches", {}))
            if self.to_patches:
                patches["attn1_patch"] = [self.handed_containers(one) for one in patches.get("attn1_patch", ())]
            try:
                return stock(block, *args, transformer_options=transformer_options | {"patches": patches}, **options)
            finally:
                self.running.pop()

        return as_if_written_beside(stock, forward)

    def handed_containers(self, patch):
        return lambda q, k, v, **options: patch(*self.contain(q, k, v), **options)

    def attention_of_a_block(self, q, k, v, **options):
        return self.attention(*self.contain(q, k, v), **options, preferred_attention=self.running[-1].comfy_attention)

    def attention(self, q, k, v, pe, mask=None, transformer_options={}, preferred_attention=None):  # noqa: B006
        if isinstance(q, self.container):
            q, k, v = q.take(), k.take(), v.take()
        if pe is not None:
            q, k = self.rotate(q, k, pe)
        options = {"transformer_options": transformer_options, "preferred_attention": preferred_attention}
        return self.optimized_attention(*self.contain(q, k, v), q.shape[1], skip_reshape=True, mask=mask, **options)

    def optimized_attention(self, q, k, v, heads, *, preferred_attention=None, **options):
        self.preferences.append(preferred_attention)
        override = options["transformer_options"].get("optimized_attention_override")
        if override is not None and hasattr(override, "container_function"):
            return override.container_function(q, k, v, heads, **options)
        if override is None and getattr(preferred_attention, "function", None) is not None:
            return preferred_attention.function(q, k, v, heads, **options)
        return self.below(q.take(), k.take(), v.take(), heads, **options)

    def softer(self, q, k, v, heads, transformer_options, **options):
        """What `softer` does, out of containers."""
        return self.below(q.take() * 0.9, k.take(), v.take(), heads, **options)


@pytest.fixture
def references():
    return [reference(1), reference(2, 4, 8)]


@pytest.fixture
def plain_picture(comfy_host, references):
    return edit(cached(klein_model())[0], references)


@pytest.fixture
def stock_picture(comfy_host, references):
    return edit(klein_model(), references)


@pytest.fixture
def later(plain_picture, stock_picture, monkeypatch):
    return LaterHost(monkeypatch)


def blocks_of(model):
    diffusion = model.model.diffusion_model
    return [*diffusion.double_blocks, *diffusion.single_blocks]


def softer(func, q, k, v, heads, **options):
    """An override that changes the picture; it knows plain tensors only."""
    return func(q * 0.9, k, v, heads, **options)


def never(*args, **options):
    raise AssertionError("another attention was chosen")


def overridden(model, override):
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


@pytest.mark.parametrize("to_patches", [False, True], ids=["patches get tensors", "patches get containers"])
def test_the_picture_is_the_plain_hosts(later, references, plain_picture, to_patches):
    later.to_patches = to_patches
    model = later.model()
    ours, shown = cached(model)
    cold, asked = edit(ours, references), list(later.preferences)
    assert torch.equal(cold, plain_picture) and torch.equal(edit(ours, references), plain_picture)
    assert [line.split(":")[0] for line in shown] == ["miss", "hit"]
    of_block = [block.comfy_attention for block in blocks_of(model)]
    # The reference pass needs no attention in the last block; then come two steps.
    assert [of_block.index(one) for one in asked] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3]


def test_the_contract_alone_changes_nothing(later, references, stock_picture):
    assert torch.equal(edit(later.model(), references), stock_picture)


@pytest.fixture
def softer_picture(comfy_host, references, plain_picture):
    """On the plain host, where only an override chooses."""
    picture = edit(overridden(cached(klein_model())[0], softer), references)
    assert not torch.equal(picture, plain_picture)
    return picture


def test_what_every_block_prefers_computes_the_references_too(softer_picture, later, references):
    model = later.model()
    for block in blocks_of(model):
        block.comfy_attention.function = later.softer
    assert torch.equal(edit(cached(model)[0], references), softer_picture)


def test_an_override_comes_before_a_preference(softer_picture, later, references):
    model = later.model()
    for block in blocks_of(model):
        block.comfy_attention.function = never
    assert torch.equal(edit(overridden(cached(model)[0], softer), references), softer_picture)


def test_an_override_that_wants_containers_gets_them(softer_picture, later, references):
    class Override:
        __call__ = never
        container_function = staticmethod(later.softer)

    assert torch.equal(edit(overridden(cached(later.model())[0], Override()), references), softer_picture)


def test_another_preference_never_meets_an_earlier_entry(later, references):
    ours, shown = cached(later.model())
    other = ours.clone()
    other.add_object_patch("diffusion_model.double_blocks.0.comfy_attention.function", later.softer)
    edit(ours, references)
    edit(other, references)
    assert [line.split(":")[0] for line in shown] == ["miss", "miss"]
