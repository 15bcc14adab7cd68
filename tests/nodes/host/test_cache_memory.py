"""The cache inside the host's own memory manager, with a processor standing in for a graphics card."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from host.edits import cached, edit, klein_model, reference, store_of
from klein9b.klein.kv_store import NoRoom, Placement, Storage, bytes_per_token

CARD = torch.device("cpu", 0)


@pytest.fixture
def management(comfy_host, monkeypatch):
    """The host's memory manager, believing that cpu:0 is a card with `free` bytes beside what our store holds."""
    import comfy.model_management as management

    management.unload_all_models()
    monkeypatch.setattr(management, "current_loaded_models", [])
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "EXTRA_RESERVED_VRAM", 0)
    monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", 0)
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 0)
    monkeypatch.setattr(management, "soft_empty_cache", lambda: None)
    return management


class Card:
    """Counts what our store keeps on it."""

    def __init__(self, management, monkeypatch, store, total):
        self.store = store
        self.total = total
        monkeypatch.setattr(management, "get_free_memory", self.free)

    def free(self, device=None, torch_free_too=False):
        free = self.total - self.store.device_bytes
        return (free, 0) if torch_free_too else free


@pytest.fixture
def memory(management):
    from klein9b.nodes.host.cache_memory import reference_memory

    return reference_memory(CARD, torch.device("cpu"))


KB = 1024


def fill(memory, name, layers=4):
    half = torch.full((1, 1, 1, KB // 8), float(name))
    return memory.store.add(name, [(half, half.clone())] * layers, Storage.MODEL, torch.float32)


def test_the_host_counts_it_as_loaded(management, monkeypatch, memory):
    Card(management, monkeypatch, memory.store, 100 * KB)
    memory.store.begin_run(2**40, 1, 4 * KB)
    assert memory.model_size() == 4 * KB
    management.load_models_gpu([memory])
    fill(memory, 1)
    (loaded,) = management.current_loaded_models
    assert loaded.model is memory
    assert loaded.model_memory() == loaded.model_loaded_memory() == 4 * KB
    assert loaded.model_offloaded_memory() == 0


def test_asking_for_memory_moves_it_to_ram(management, monkeypatch, memory):
    card = Card(management, monkeypatch, memory.store, 10 * KB)
    management.load_models_gpu([memory])
    entry = fill(memory, 1)
    management.free_memory(8 * KB, CARD)
    assert card.free() >= 8 * KB
    assert memory.store.device_bytes == 2 * KB and memory.store.held_bytes == 4 * KB
    assert management.current_loaded_models[0].model is memory, "the rest stays"
    management.free_memory(10 * KB, CARD)
    assert memory.store.device_bytes == 0 and management.current_loaded_models == []
    assert float(memory.store.read(entry, 3)[0][0, 0, 0, 0]) == 1.0


def test_unloading_every_model_frees_the_card(management, monkeypatch, memory):
    Card(management, monkeypatch, memory.store, 10 * KB)
    management.load_models_gpu([memory])
    fill(memory, 1)
    management.free_memory(1e30, CARD)
    assert memory.store.device_bytes == 0 and memory.store.held_bytes == 4 * KB


def test_with_too_little_left_only_a_part_is_on_the_card(management, monkeypatch, memory):
    Card(management, monkeypatch, memory.store, 10 * KB)
    memory.store.begin_run(2**40, 1, 4 * KB)
    management.load_models_gpu([memory], memory_required=8 * KB, minimum_memory_required=8 * KB)
    entry = fill(memory, 1)
    assert 0 < memory.store.device_bytes <= 2 * KB
    assert all(float(memory.store.read(entry, i)[0].mean()) == 1.0 for i in range(4))
    assert memory.store.device_bytes <= 2 * KB


def test_on_cpu_the_host_makes_no_room_for_it(management, monkeypatch, memory):
    card = Card(management, monkeypatch, memory.store, 10 * KB)
    management.load_models_gpu([memory])
    fill(memory, 1)
    memory.store.begin_run(2**40, 2, 4 * KB, Placement.CPU)
    assert memory.model_size() == 0 and card.free() == 10 * KB
    management.load_models_gpu([memory])
    entry = fill(memory, 2)
    assert card.free() == 10 * KB and float(memory.store.read(entry, 3)[1][0, 0, 0, 0]) == 2.0


def test_on_gpu_the_host_gives_the_room_or_the_run_is_refused(management, monkeypatch, memory):
    Card(management, monkeypatch, memory.store, 10 * KB)
    for required, room in ((4 * KB, True), (8 * KB, False)):
        memory.store.begin_run(2**40, 1, 4 * KB, Placement.GPU)
        management.load_models_gpu([memory], memory_required=required, minimum_memory_required=required)
        if not room:
            with pytest.raises(NoRoom):
                memory.store.require_room()
            continue
        memory.store.require_room()
        assert fill(memory, 1).device_bytes == 4 * KB
        memory.store.end_run()
        memory.store.begin_run(0, 0, 0)


def test_on_gpu_a_run_that_loses_its_room_ends_with_the_sentence(comfy_host):
    ours, _ = cached(klein_model(), placement=Placement.GPU)
    store = store_of(ours)

    def thief(apply_model, args):
        store.offload(1)
        return apply_model(args["input"], args["timestep"], **args["c"])

    ours.set_model_unet_function_wrapper(thief)
    with pytest.raises(NoRoom, match="Set placement to auto or cpu"):
        edit(ours, [reference(1)], steps=3)


def test_a_new_run_makes_room_by_moving_idle_references(management, monkeypatch, memory):
    Card(management, monkeypatch, memory.store, 6 * KB)
    management.load_models_gpu([memory])
    fill(memory, 1)
    memory.store.end_run()
    memory.store.begin_run(2**40, 2, 4 * KB)
    management.load_models_gpu([memory])
    fill(memory, 2)
    assert memory.store.find(2).device_bytes == 4 * KB
    assert memory.store.find(1).device_bytes == 2 * KB


def test_the_runs_estimate_names_every_distinct_reference_once(comfy_host):
    from klein9b.nodes.host.cache_run import reference_tokens

    a, b, c = reference(1, 6, 5), reference(2, 4, 8), reference(3, 2, 2)
    conds = {
        "positive": [{"reference_latents": [a, b]}],
        "negative": [{"reference_latents": [a, b]}, {"reference_latents": [c]}],
        "middle": [{}],
    }
    assert reference_tokens(conds) == 30 + 32 + 4


def test_the_estimate_is_what_a_run_then_holds(comfy_host):
    for storage in Storage:
        model = klein_model()
        ours, _ = cached(model, storage=storage)
        edit(ours, [reference(1, 6, 5)], steps=1)
        size = bytes_per_token(model.model.diffusion_model, storage, torch.float32)
        assert store_of(ours).held_bytes == 30 * size


def test_a_run_loads_it_beside_its_model(comfy_host, monkeypatch):
    import comfy.model_management as management

    seen = []
    load = management.load_models_gpu

    def spying(models, *args, **kwargs):
        seen.append([(type(m).__name__, m.model_size()) for m in models])
        return load(models, *args, **kwargs)

    monkeypatch.setattr(management, "load_models_gpu", spying)
    ours, _ = cached(klein_model())
    edit(ours, [reference(1, 6, 5)], steps=1)
    assert seen[0][1] == ("ReferenceMemory", 30 * 4 * 2 * 256 * 4)


def test_taken_back_between_two_steps_the_picture_is_the_same(comfy_host):
    model = klein_model()
    wanted = edit(cached(model)[0], [reference(1)], steps=3)
    ours, shown = cached(klein_model())
    store = store_of(ours)

    def thief(apply_model, args):
        store.offload(2**30)
        return apply_model(args["input"], args["timestep"], **args["c"])

    ours.set_model_unet_function_wrapper(thief)
    assert torch.equal(edit(ours, [reference(1)], steps=3), wanted)
    assert shown[-1].startswith("miss") and store.device_bytes == 0


def test_one_memory_a_model_gone_with_it(comfy_host):
    model = klein_model()
    ours, _ = cached(model)
    assert store_of(ours.clone()) is store_of(cached(model)[0])
    edit(ours, [reference(1)], steps=1)
    watched = weakref.ref(store_of(ours))
    import comfy.model_management

    comfy.model_management.unload_all_models()
    del model, ours
    gc.collect()
    assert watched() is None


def test_out_of_memory_once_goes_on_from_ram(comfy_host, monkeypatch):
    from klein9b.klein.kv_store import ReferenceStore

    model = klein_model()
    wanted = edit(cached(model)[0], [reference(1)])
    ours, shown = cached(klein_model())
    read, failures = ReferenceStore.read, [1]

    def failing_once(self, entry, index):
        if failures:
            failures.pop()
            raise torch.cuda.OutOfMemoryError("out of memory")
        return read(self, entry, index)

    monkeypatch.setattr(ReferenceStore, "read", failing_once)
    assert torch.equal(edit(ours, [reference(1)]), wanted)
    assert shown[-1].startswith("miss")


def test_a_copy_with_weights_of_its_own_is_counted_too(comfy_host):
    """As TorchCompileModel and Select Model Device make one."""
    import comfy.model_management as management

    model = klein_model()
    model.cached_patcher_init = (lambda **_: klein_model(), ())
    copy = cached(model)[0].clone(force_deepcopy=True)
    assert copy.model is not model.model
    edit(copy, [reference(1)], steps=1)
    from klein9b.nodes.host.cache_memory import memories

    memory = memories.of(copy)
    assert len(memory.store.held()) == 1
    assert any(loaded.model is memory for loaded in management.current_loaded_models)


class Cudart:
    """Locks pages in the books alone; refuses above a limit."""

    def __init__(self, limit=2**60):
        self.limit = limit
        self.locked = {}

    def cudaHostRegister(self, address, size, flags):
        if sum(self.locked.values()) + size > self.limit:
            return 2
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address):
        return 0 if self.locked.pop(address, None) else 1

    @property
    def bytes(self):
        return sum(self.locked.values())


@pytest.fixture
def cudart(management, monkeypatch):
    """A host that may pin 1 MB, as it would on a CUDA card."""
    cudart = Cudart()
    monkeypatch.setattr(management, "is_device_cpu", lambda device: device == torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(management, "MAX_PINNED_MEMORY", 1024 * KB)
    monkeypatch.setattr(management, "discard_cuda_async_error", lambda: None)
    return cudart


@pytest.fixture
def pinning(cudart):
    from klein9b.nodes.host.cache_memory import reference_memory

    return reference_memory(CARD, torch.device("cpu"))


def test_what_it_pins_is_in_the_hosts_books(management, cudart, pinning):
    before = management.TOTAL_PINNED_MEMORY
    entry = fill(pinning, 1)
    assert cudart.bytes == 0
    pinning.detach()
    assert management.TOTAL_PINNED_MEMORY - before == cudart.bytes == 4 * KB
    assert float(pinning.store.read(entry, 3)[0][0, 0, 0, 0]) == 1.0
    pinning.store.begin_run(0, 0, 0)
    assert before == management.TOTAL_PINNED_MEMORY and cudart.bytes == 0


def test_it_pins_only_what_is_left_of_the_hosts_limit(management, monkeypatch, cudart, pinning):
    """The host would unpin weights of the running model for it, and never takes ours back."""
    asked = []
    monkeypatch.setattr(management, "free_registrations", lambda shortfall, **_: asked.append(shortfall))
    monkeypatch.setattr(management, "TOTAL_PINNED_MEMORY", 1022 * KB)
    entry = fill(pinning, 1)
    pinning.detach()
    assert cudart.bytes == 2 * KB and management.TOTAL_PINNED_MEMORY == 1024 * KB and max(asked) <= 0
    assert all(float(pinning.store.read(entry, i)[0].mean()) == 1.0 for i in range(4))


def test_it_unpins_when_its_model_is_gone(management, cudart):
    from klein9b.nodes.host.cache_memory import reference_memory

    before = management.TOTAL_PINNED_MEMORY
    memory = reference_memory(CARD, torch.device("cpu"))
    fill(memory, 1)
    memory.detach()
    assert before < management.TOTAL_PINNED_MEMORY
    del memory
    gc.collect()
    assert before == management.TOTAL_PINNED_MEMORY and cudart.bytes == 0


def available(monkeypatch, management, ram):
    monkeypatch.setattr(management.psutil, "virtual_memory", lambda: SimpleNamespace(available=ram))


@pytest.mark.parametrize("refused", ["by the host", "by the driver", "with --disable-pinned-memory", "as RAM is short"])
def test_without_pins_it_lies_in_plain_ram(management, monkeypatch, cudart, refused):
    from klein9b.nodes.host.cache_memory import reference_memory

    if refused == "as RAM is short":
        available(monkeypatch, management, 2**31)
    memory = reference_memory(CARD, torch.device("cpu"))
    if refused == "by the host":
        monkeypatch.setattr(management, "pin_memory", lambda tensor: False)
        memory = reference_memory(CARD, torch.device("cpu"))
    elif refused == "by the driver":
        cudart.limit = KB
    elif refused == "with --disable-pinned-memory":
        monkeypatch.setattr(management, "MAX_PINNED_MEMORY", -1)
    entry = fill(memory, 1)
    memory.detach()
    assert cudart.bytes == (KB if refused == "by the driver" else 0)
    assert memory.store.device_bytes == 0
    assert all(float(memory.store.read(entry, i)[0].mean()) == 1.0 for i in range(4))


@pytest.mark.parametrize(("free", "kept"), [(2**31 + 4 * KB, True), (2**31 - 1, False)])
def test_references_that_no_run_uses_leave_when_ram_is_as_short_as_makes_the_host_free_its_own(
    management, monkeypatch, free, kept
):
    """The host keeps 2 GiB of RAM free of weights that it could read again."""
    from klein9b.nodes.host.cache_memory import reference_memory

    available(monkeypatch, management, free)
    assert management.ensure_pin_budget(4 * KB) == kept
    memory = reference_memory(CARD, torch.device("cpu"))
    fill(memory, 1)
    memory.store.end_run()
    assert memory.store.held() == [1], "on the card they take no RAM"
    memory.detach()
    assert memory.store.held() == ([1] if kept else []) and memory.store.device_bytes == 0


def test_a_cache_with_more_headroom_wants_more_ram_free(management, monkeypatch):
    """--cache-ram, while a prompt runs."""
    import comfy.memory_management

    from klein9b.nodes.host.cache_memory import host_ram

    available(monkeypatch, management, 2**32)
    room = host_ram().has_room
    assert room(2**31) and not room(2**31 + 1)
    monkeypatch.setattr(comfy.memory_management, "RAM_CACHE_HEADROOM", 2**33)
    assert room(0) and not room(1)


def test_a_run_that_wants_nothing_there_is_loaded_alone(comfy_host, monkeypatch):
    """Text to image, or references kept in RAM: the host then evicts idle references like any other model."""
    import comfy.model_management as management

    seen = []
    load = management.load_models_gpu

    def spying(models, *args, **kwargs):
        seen.append([type(m).__name__ for m in models])
        return load(models, *args, **kwargs)

    monkeypatch.setattr(management, "load_models_gpu", spying)
    model = klein_model()
    for placement, references in (
        ("auto", [reference(1)]),
        ("cpu", [reference(1)]),
        ("gpu", []),
        ("gpu", [reference(1)]),
    ):
        edit(cached(model, placement=Placement(placement))[0], references, steps=1)
    assert ["ReferenceMemory" in names for names in seen] == [True, False, False, True]
