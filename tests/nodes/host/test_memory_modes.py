"""The host's ways to manage memory, on a card simulated in its books: same pictures, nothing left behind, no thrash.

The numbers are of a stand-in of 37 MB beside a text encoder of 40 MB; the keys of its reference take 4.5 MB.
"""

import gc
import weakref

import pytest
import torch

from host.edits import cached, edit, klein_model, prompt, reference, store_of
from host.simulated_card import SimulatedCard, plain_model
from klein9b.klein.kv_store import NoRoom, Placement

MB = 2**20
KEYS = 24 * 24 * 4 * 2 * 256 * 4
LARGEST_LAYER = 256 * 12288 * 4
ACTIVATIONS = 5 * MB
ROUNDS = 4


@pytest.fixture(scope="module")
def pictures(comfy_host):
    """Without any card: the edit with the cache, and the plain one without references."""
    model = klein_model()
    return edit(cached(model)[0], [reference(1)], steps=3), edit(model, steps=3)


@pytest.fixture
def cudart(monkeypatch):
    """Page locks in the books alone, as many as a host with a CUDA card may take."""
    import comfy.model_management as management

    locked = {}

    class Cudart:
        cudaHostRegister = staticmethod(lambda address, size, flags: locked.update({address: size}) or 0)  # noqa: N815
        cudaHostUnregister = staticmethod(lambda address: 0 if locked.pop(address, None) else 1)  # noqa: N815

    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    monkeypatch.setattr(management, "MAX_PINNED_MEMORY", 2**40)
    return locked


def patched(monkeypatch, **values):
    import comfy.model_management as management

    for name, value in values.items():
        monkeypatch.setattr(management, name, value)


# What the command line sets, and how much of the references' keys then lies on the card.
MODES = {
    "a large card": ({"total": 400 * MB}, {}, "all"),
    "a small card": ({"total": 45 * MB}, {}, "all"),
    "a card too small for the weights": ({"total": 20 * MB}, {}, "all"),
    "a card without room": ({"total": 4 * MB, "activations": 4 * MB}, {}, "none"),
    "--lowvram": ({"total": 45 * MB, "vram_state": "LOW_VRAM"}, {}, "all"),
    "--novram": ({"total": 400 * MB, "vram_state": "NO_VRAM"}, {}, "none"),
    "--highvram": ({"total": 400 * MB, "vram_state": "HIGH_VRAM"}, {}, "all"),
    "--reserve-vram": ({"total": 45 * MB}, {"EXTRA_RESERVED_VRAM": 45 * MB}, "none"),
    "--disable-pinned-memory": ({"total": 45 * MB}, {"MAX_PINNED_MEMORY": -1}, "all"),
    "--disable-smart-memory": ({"total": 45 * MB}, {"DISABLE_SMART_MEMORY": True}, "all"),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_the_same_pictures_and_leaves_nothing(monkeypatch, cudart, pictures, mode):
    import comfy.model_management as management

    settings, values, where = MODES[mode]
    card = SimulatedCard(monkeypatch, **settings)
    patched(monkeypatch, **values)
    before = management.TOTAL_PINNED_MEMORY
    model = klein_model()
    ours, shown = cached(model)
    wanted, plain = pictures
    pins = "disable-pinned" not in mode
    for _ in range(2):
        assert torch.equal(edit(ours, [reference(1)], steps=3), wanted)
        store = store_of(ours)
        assert store.device_bytes == {"all": store.held_bytes, "none": 0}[where]
        assert pinned_bytes(store) == pins * (store.held_bytes - store.device_bytes)
        assert torch.equal(edit(model, steps=3), plain)
        if values.get("DISABLE_SMART_MEMORY"):
            management.unload_all_models()
    assert [text.split(":")[0] for text in shown] == ["miss", "hit"]
    management.unload_all_models()
    assert card.used == 0 and management.current_loaded_models == []
    assert pinned_bytes(store) == pins * store.held_bytes
    kept = pinned_at(store)
    assert kept <= cudart.keys() and len(kept) == pins * 8
    watched = [weakref.ref(thing) for thing in (store, model.model)]
    del ours, model, store
    gc.collect()
    assert [one() for one in watched] == [None, None]
    # The host itself leaves a weight pinned that went to the card and back, with any model.
    assert not kept & cudart.keys() and management.TOTAL_PINNED_MEMORY - before == sum(cudart.values())


def copies_of(store):
    copies = (layer.copy for entry in store._all() for layer in entry.layers)
    return [copy for copy in copies if copy is not None]


def pinned_bytes(store):
    return sum(copy.pinned_bytes for copy in copies_of(store))


def pinned_at(store):
    return {tensor.data_ptr() for copy in copies_of(store) if copy.pinned_bytes for tensor in copy.tensors}


def test_a_mode_that_changed_the_picture_would_be_seen(monkeypatch, pictures):
    SimulatedCard(monkeypatch, 45 * MB)
    wanted, plain = pictures
    assert not torch.equal(edit(klein_model(), [reference(1)], steps=3), wanted)
    assert not torch.equal(edit(cached(klein_model())[0], [reference(2)], steps=3), wanted)
    assert not torch.equal(wanted, plain)


def test_novram_refuses_gpu_in_a_sentence(monkeypatch, comfy_host):
    SimulatedCard(monkeypatch, 400 * MB, vram_state="NO_VRAM")
    with pytest.raises(NoRoom, match="Set placement to auto or cpu"):
        edit(cached(klein_model(), placement=Placement.GPU)[0], [reference(1)], steps=1)


class TestWithoutRoomInRam:
    """ComfyUI keeps 2 GiB of RAM free."""

    @pytest.fixture
    def card(self, monkeypatch, comfy_host):
        card = SimulatedCard(monkeypatch, 4 * MB, activations=4 * MB)
        card.ram = 2**31 + 2**10
        return card

    def test_the_run_goes_on_without_the_cache(self, card, caplog):
        wanted = edit(klein_model(), [reference(1)], steps=2)
        ours, shown = cached(klein_model())
        assert torch.equal(edit(ours, [reference(1)], steps=2), wanted)
        aside = "there is not enough memory for the references' keys and values"
        assert shown[-1] == f"stock path: {aside}"
        assert [r.message for r in caplog.records].count(
            f"Klein 9B Reference Cache steps aside, the stock path runs: {aside}."
        ) == 1
        assert store_of(ours).held_bytes == 0

    def test_on_cpu_the_run_ends_with_a_sentence(self, card):
        ours, _ = cached(klein_model(), placement=Placement.CPU)
        with pytest.raises(NoRoom, match=r"in RAM, and ComfyUI has room there for .* Set placement to auto, storage"):
            edit(ours, [reference(1)], steps=1)
        assert store_of(ours).held_bytes == 0

    def test_out_of_memory_on_the_card_is_the_stock_path_too(self, card, monkeypatch):
        wanted = edit(klein_model(), [reference(1)], steps=2)
        card.total = 400 * MB
        ours, shown = cached(klein_model())
        running_out(monkeypatch, after=6)
        assert torch.equal(edit(ours, [reference(1)], steps=2), wanted)
        assert shown[-1].startswith("stock path: there is not enough memory")
        assert store_of(ours).held_bytes == 0, "idle by then, and RAM has no room for it"


def running_out(monkeypatch, after):
    """The device is out of memory once, when so many keys and values have been fetched."""
    from klein9b.klein.kv_store import ReferenceStore

    fetch, fetched = ReferenceStore.fetch, []

    def failing(self, entry, index):
        fetched.append(index)
        if len(fetched) == after + 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return fetch(self, entry, index)

    monkeypatch.setattr(ReferenceStore, "fetch", failing)


def test_on_gpu_out_of_memory_says_what_was_there(monkeypatch, comfy_host):
    card = SimulatedCard(monkeypatch, 2**30)
    ours, _ = cached(klein_model(), placement=Placement.GPU)
    running_out(monkeypatch, after=2)
    with pytest.raises(NoRoom, match=r"and ComfyUI has 0\.9\d GiB there for them and for a step, which was not enough"):
        edit(ours, [reference(1)], steps=2)
    assert card.used > 0


def test_weights_that_are_loaded_dynamically_make_way_by_themselves(monkeypatch, comfy_host):
    """With dynamic VRAM the card looks full of weights, which the host counts as free where it allocates."""
    import comfy.memory_management
    import comfy_aimdo.model_vbar

    card = SimulatedCard(monkeypatch, 45 * MB)
    card.taken = 45 * MB
    ours, _ = cached(klein_model(), placement=Placement.GPU)
    with pytest.raises(NoRoom):
        edit(ours, [reference(1)], steps=1)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(comfy_aimdo.model_vbar, "vbars_analyze", lambda device: 45 * MB)
    edit(ours, [reference(1)], steps=1)
    assert store_of(ours).device_bytes == store_of(ours).held_bytes > 0


@pytest.mark.parametrize("dynamic", [True, False])
def test_beside_dynamic_weights_no_other_model_is_unloaded_for_it(monkeypatch, comfy_host, dynamic):
    """The host unloads dynamic models, pins and all, once anything else is loaded with them."""
    import comfy.model_management as management

    SimulatedCard(monkeypatch, 400 * MB)
    asked, free_memory = [], management.free_memory

    def spying(*args, **kwargs):
        asked.append(kwargs.get("for_dynamic", False))
        return free_memory(*args, **kwargs)

    monkeypatch.setattr(management, "free_memory", spying)
    model = klein_model()
    monkeypatch.setattr(type(model), "is_dynamic", lambda self: dynamic)
    ours, _ = cached(model)
    edit(ours, [reference(1)], steps=1)
    assert asked and set(asked) == {dynamic}
    (memory,) = [one.model for one in management.current_loaded_models if not hasattr(one.model.model, "latent_format")]
    assert not memory.is_dynamic(), "once it is loaded, others may have its room"
    assert store_of(ours).device_bytes == store_of(ours).held_bytes > 0


class Session:
    """Encode, sample, decode, again and again with two prompts, as a person does who looks for words."""

    def __init__(self, card, *, ours, placement=Placement.AUTO):
        self.card = card
        self.model = klein_model()
        self.encoder, self.vae = plain_model("Encoder", 40 * MB), plain_model("Vae", MB)
        self.sampled, self.shown = cached(self.model, placement=placement) if ours else (self.model, [])
        self.pictures = []

    def round(self, number):
        import comfy.model_management as management

        management.load_models_gpu([self.encoder])
        self.pictures.append(edit(self.sampled, [reference(1, 24, 24)], steps=2, embeds=prompt(number % 2)))
        assert self.card.used + ACTIVATIONS <= self.card.total, "a step has not the room that the host kept for it"
        management.load_models_gpu([self.vae], memory_required=8 * MB)

    def run(self):
        for number in range(ROUNDS):
            self.round(number)
        return self


def moved(card, *names):
    return sum(card.into[name] + card.out_of[name] for name in names)


def session(total, **kind):
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        card = SimulatedCard(patch, total, activations=ACTIVATIONS)
        ended = Session(card, **kind).run()
        assert card.peak <= total, "more lies on the card than it has"
        return card, ended


@pytest.mark.parametrize("total", [400, 120, 80, 60, 45, 30])
class TestSwitchingPrompts:
    def test_references_stay_and_little_more_moves_than_without_them(self, comfy_host, total):
        """Models make room for keys that lie on the card, once a round, in whole layers; and keys for models."""
        stock, _ = session(total * MB, ours=False)
        card, ours = session(total * MB, ours=True)
        assert [text.split(":")[0] for text in ours.shown] == ["miss"] + ["hit"] * (ROUNDS - 1)
        everything = "Encoder", "Flux2", "Vae", "ReferenceKeysValues"
        most = 0 if total >= 120 else 2 * ROUNDS * (KEYS + LARGEST_LAYER)
        assert moved(card, *everything) <= moved(stock, *everything) + KEYS + most
        assert moved(card, "ReferenceKeysValues") <= 2 * ROUNDS * KEYS

    def test_in_ram_they_move_nothing_at_all(self, comfy_host, total):
        stock, _ = session(total * MB, ours=False)
        card, ours = session(total * MB, ours=True, placement=Placement.CPU)
        assert (card.into, card.out_of) == (stock.into, stock.out_of)
        assert [text.split(":")[0] for text in ours.shown] == ["miss"] + ["hit"] * (ROUNDS - 1)

    def test_within_a_run_nothing_goes_back_and_forth(self, comfy_host, monkeypatch, total):
        from klein9b.klein.kv_store import ReferenceStore

        moves = []
        for name in ("_to_ram", "_to_device"):
            monkeypatch.setattr(ReferenceStore, name, noted(getattr(ReferenceStore, name), moves))
        monkeypatch.setattr(ReferenceStore, "end_run", noted(ReferenceStore.end_run, moves))
        session(total * MB, ours=True)
        runs = " ".join(moves).split("end_run")[:-1]
        assert len(runs) == ROUNDS
        assert all(run.count("_to_device") <= 4 for run in runs)
        assert not any("_to_ram" in run[run.index("_to_device") :] for run in runs if "_to_device" in run)


def noted(method, moves):
    def noting(*args):
        moves.append(method.__name__)
        return method(*args)

    return noting
