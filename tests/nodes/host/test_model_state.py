"""Random sequences of changes to references and to a model's patches never meet a wrong entry."""

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

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
