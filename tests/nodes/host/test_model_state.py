"""A state changes with all that the reference pass reads and with nothing else; no sequence meets a wrong entry."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from host.edits import cached, edit, klein_model, reference
from klein9b.klein.kv_cache import PositionedReference, ReferenceRun
from klein9b.klein.kv_store import ReferenceStore, Storage

pytestmark = pytest.mark.usefixtures("comfy_host")

LAYERS = 2
KEY = "diffusion_model.weight"


class Model(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.diffusion_model = torch.nn.Linear(8, 8, bias=False)
        self.diffusion_model.requires_grad_(False)
        self.diffusion_model.weight.copy_(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)))


def fresh(seed):
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(Model(seed), torch.device("cpu"), torch.device("cpu"))


@functools.cache
def kind_of_ours():
    from klein9b.nodes.host.model_state import ByValue

    class Ours(ByValue):
        """Hands attention on as it is; its profile says that it would not."""

        def __init__(self, profile):
            self.profile = profile

        @property
        def description(self):
            return self.profile

        def __call__(self, attention, *args, **kwargs):
            return attention(*args, **kwargs)

    return Ours


def ours(profile):
    """What a node of ours puts on a model: a new object in every execution."""
    return kind_of_ours()(profile)


def with_part(name, make):
    def change(patcher):
        clone = patcher.clone()
        clone.add_object_patch(name, make())
        return clone

    return change


def with_lora(strength):
    def change(patcher):
        clone = patcher.clone()
        clone.add_patches({KEY: ("diff", (torch.ones(8, 8),))}, strength)
        return clone

    return change


def with_replaced_block(patcher):
    clone = patcher.clone()
    clone.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "single_block", 0)
    return clone


def with_injection(patcher):
    from comfy.patcher_extension import PatcherInjection

    clone = patcher.clone()
    clone.set_injections("a LoRA beside the weights", [PatcherInjection(print, print)])
    return clone


def function():
    return lambda *args: args


UNREAD = {
    "a clone": lambda patcher: patcher.clone(),
    "a single block's forward": with_part("diffusion_model.single_blocks.11.forward", function),
    "a double block's forward": with_part("diffusion_model.double_blocks.0.forward", function),
    "the model's own forward": with_part("diffusion_model.forward_orig", function),
    "another sampling": with_part("model_sampling", object),
    "a replaced block": with_replaced_block,
    "ours, made again": with_part("diffusion_model.pe_embedder", lambda: ours("exact")),
}
READ = {
    "a LoRA": with_lora(0.5),
    "a LoRA of strength 0": with_lora(0.0),
    "another layer": with_part("diffusion_model.single_blocks.0.linear1", lambda: torch.nn.Linear(8, 8)),
    "a layer's forward": with_part("diffusion_model.single_blocks.0.linear1.forward", function),
    "another position table": with_part("diffusion_model.pe_embedder", function),
    "ours with another profile": with_part("diffusion_model.pe_embedder", lambda: ours("fast")),
    "an injection": with_injection,
    "another file": lambda patcher: fresh(1),
}


def states(changes):
    """Before and after; the patchers live on as they do in a graph."""
    from klein9b.nodes.host.model_state import model_state

    patchers = [with_part("diffusion_model.pe_embedder", lambda: ours("exact"))(fresh(0))]
    for change in changes:
        patchers.append(change(patchers[-1]))
    before, after = model_state(patchers[0]), model_state(patchers[-1])
    return before == after and hash(before) == hash(after), before == model_state(patchers[0])


@given(st.lists(st.sampled_from(list(UNREAD)), max_size=6))
@settings(deadline=None, max_examples=60)
def test_what_the_reference_pass_does_not_read_leaves_the_state_alone(names):
    assert states([UNREAD[name] for name in names]) == (True, True)


@given(
    st.lists(st.sampled_from(list(UNREAD)), max_size=3),
    st.sampled_from(list(READ)),
    st.lists(st.sampled_from(list(UNREAD)).filter(lambda name: name != "ours, made again"), max_size=3),
)
@settings(deadline=None, max_examples=120)
def test_whatever_it_reads_changes_the_state(earlier, name, later):
    assert states([*(UNREAD[one] for one in earlier), READ[name], *(UNREAD[one] for one in later)]) == (False, True)


@pytest.mark.parametrize("name", ["forward_orig", "double_blocks.1.forward", "single_blocks.0.forward"])
def test_another_forward_of_a_block_finds_the_references(name):
    model = klein_model()
    edit(cached(model)[0], [reference(1)])
    patched, shown = cached(model)
    patched.add_object_patch(f"diffusion_model.{name}", patched.get_model_object(f"diffusion_model.{name}"))
    edit(patched, [reference(1)])
    assert shown[-1].startswith("hit")


def test_an_override_of_ours_is_the_same_when_made_again_and_another_is_not():
    model = klein_model()
    ours_cached, shown = cached(model)
    overrides = [ours("exact"), ours("exact"), ours("fast"), lambda f, *a, **k: f(*a, **k), ours("exact")]
    for override in overrides:
        ours_cached.model_options["transformer_options"]["optimized_attention_override"] = override
        edit(ours_cached, [reference(1)])
    assert [line.split(":")[0] for line in shown] == ["miss", "hit", "miss", "miss", "hit"]


def truth(weight, scale, latents, storage):
    """What keys and values must be: any function of all that they depend on."""
    tokens = torch.cat([latent.flatten(2).transpose(1, 2).float() for latent in latents], dim=1)
    order = torch.arange(tokens.shape[1])[None, :, None] / 7
    key = (tokens @ weight * scale + order)[:, None]
    return [storage.unpack(storage.pack((key + i, key - i)), latents[0].dtype) for i in range(LAYERS)]


class Changes(RuleBasedStateMachine):
    """The state a person can change between runs; `look` runs with it and checks every layer."""

    def __init__(self):
        super().__init__()
        self.store = ReferenceStore(torch.device("cpu"))
        self.patchers = [fresh(0)]
        self.loras: list[list[tuple[int, float]]] = [[]]
        self.scales = [1.0]
        self.current = 0
        self.latents = [torch.zeros(1, 8, 2, 2)]
        self.storage = Storage.MODEL
        self.budget = 2**30

    @rule(seed=st.integers(0, 2))
    def load_a_file(self, seed):
        self.patchers.append(fresh(seed))
        self.loras.append([])
        self.scales.append(1.0)
        self.current = len(self.patchers) - 1

    @rule(lora=st.integers(0, 2), strength=st.sampled_from([0.0, 0.5, 1.0]))
    def add_a_lora(self, lora, strength):
        clone = self._branch(scale=self.scales[self.current])
        delta = torch.randn(8, 8, generator=torch.Generator().manual_seed(100 + lora))
        clone.add_patches({KEY: ("diff", (delta,))}, strength)
        self.loras[-1].append((lora, strength))

    @rule(scale=st.sampled_from([1.0, 2.0]))
    def replace_a_part(self, scale):
        clone = self._branch(scale=scale)
        clone.add_object_patch("diffusion_model.scale", torch.nn.Parameter(torch.tensor(scale), requires_grad=False))

    @rule(data=st.data())
    def go_back_to_another_model(self, data):
        self.current = data.draw(st.integers(0, len(self.patchers) - 1))

    @rule(seeds=st.lists(st.integers(0, 3), min_size=1, max_size=3), height=st.integers(1, 3), half=st.booleans())
    def choose_references(self, seeds, height, half):
        dtype = torch.bfloat16 if half else torch.float32
        self.latents = [
            torch.randn(1, 8, height, 2, generator=torch.Generator().manual_seed(s)).to(dtype) for s in seeds
        ]

    @rule(pixel=st.integers(0, 7))
    def change_a_pixel(self, pixel):
        self.latents = [self.latents[0].clone(), *self.latents[1:]]
        self.latents[0][0, pixel, 0, 0] += 1

    @rule()
    def reverse(self):
        self.latents = self.latents[::-1]

    @rule(storage=st.sampled_from(Storage))
    def store_as(self, storage):
        self.storage = storage

    @rule(size=st.sampled_from([0, 600, 2**30]))
    def budget_of(self, size):
        self.budget = size

    @rule(size=st.integers(0, 4000))
    def memory_is_taken(self, size):
        self.store.offload(size)

    @rule(again=st.booleans())
    def look(self, again):
        from klein9b.nodes.host.model_state import model_state

        self.store.begin_run(self.budget, 0, 0)
        run = ReferenceRun(self.store, self.storage)
        wanted = truth(self._weight(), self.scales[self.current], self.latents, self.storage)
        for _ in range(1 + again):
            state = model_state(self.patchers[self.current])
            latents = [latent.clone() for latent in self.latents]
            entry = run.entry(latents, state, self._position, lambda tokens, ids: self._compute(tokens))
            for i, pair in enumerate(wanted):
                assert all(map(torch.equal, self.store.read(entry, i), pair))
        self.store.end_run()

    def _branch(self, scale):
        clone = self.patchers[self.current].clone()
        self.patchers.append(clone)
        self.loras.append(list(self.loras[self.current]))
        self.scales.append(scale)
        self.current = len(self.patchers) - 1
        return clone

    def _weight(self):
        weight = self.patchers[self.current].model.diffusion_model.weight.clone()
        for lora, strength in self.loras[self.current]:
            weight += strength * torch.randn(8, 8, generator=torch.Generator().manual_seed(100 + lora))
        return weight

    @staticmethod
    def _position(latent, index):
        count = latent.shape[2] * latent.shape[3]
        return PositionedReference(latent.flatten(2).transpose(1, 2), torch.full((1, count, 1), float(index)))

    def _compute(self, tokens):
        order = torch.arange(tokens.shape[1])[None, :, None] / 7
        key = (tokens.float() @ self._weight() * self.scales[self.current] + order)[:, None]
        for i in range(LAYERS):
            yield key + i, key - i


@pytest.mark.usefixtures("comfy_host")
class TestChanges(Changes.TestCase):
    settings = settings(
        deadline=None, max_examples=150, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
    )
