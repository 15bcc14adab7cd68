"""The store: budget, allowance, moves between device and RAM, all on CPU."""

import gc
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ram_manager import Manager

from klein9b.klein.kv_store import (
    UNLIMITED,
    NoRoom,
    NoRoomAnywhere,
    Placement,
    ReferenceStore,
    Storage,
    bytes_per_token,
)

LAYERS, HEADS, HEAD_DIM = 3, 2, 16
TOKEN = LAYERS * 2 * HEADS * HEAD_DIM * 4


def pairs(name, tokens=1):
    generator = torch.Generator().manual_seed(name)
    shape = (1, HEADS, tokens, HEAD_DIM)
    return [(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)) for _ in range(LAYERS)]


def store():
    return ReferenceStore(torch.device("cpu"))


def add(s, name, tokens=1, storage=Storage.MODEL):
    return s.add(name, pairs(name, tokens), storage, torch.float32)


def same(s, entry, name, tokens=1):
    return all(
        torch.equal(got, wanted)
        for i, pair in enumerate(pairs(name, tokens))
        for got, wanted in zip(s.read(entry, i), pair)
    )


def test_finds_what_was_added_and_nothing_else():
    s = store()
    add(s, 1)
    assert same(s, s.find(1), 1)
    assert s.find(2) is None
    assert s.held_bytes == s.device_bytes == TOKEN


def test_least_recently_used_goes_first():
    s = store()
    s.begin_run(2 * TOKEN, 0, 0)
    add(s, 1)
    add(s, 2)
    s.find(1)
    add(s, 3)
    s.end_run()
    assert s.held() == [1, 3]


def test_a_run_keeps_what_it_uses_even_over_budget_and_drops_it_after():
    s = store()
    s.begin_run(TOKEN // 2, 1, TOKEN)
    entry = add(s, 1)
    assert same(s, entry, 1) and s.held() == [1]
    s.end_run()
    assert s.held() == [] and s.held_bytes == 0


def test_a_smaller_budget_drops_at_the_next_run():
    s = store()
    s.begin_run(UNLIMITED, 0, 0)
    add(s, 1)
    s.end_run()
    assert s.held() == [1]
    s.begin_run(0, 0, 0)
    assert s.held() == [] and s.held_bytes == 0


def test_offload_moves_to_ram_and_loses_nothing():
    s = store()
    s.begin_run(UNLIMITED, 0, 0)
    entry = add(s, 1)
    assert s.offload(1) >= 1
    assert s.device_bytes == TOKEN - TOKEN // LAYERS
    assert s.offload(TOKEN) == TOKEN - TOKEN // LAYERS
    assert s.device_bytes == 0 and s.held_bytes == TOKEN
    assert same(s, entry, 1)
    assert s.device_bytes == 0, "what was taken back must not creep onto the device again in the same run"


def test_a_new_allowance_brings_layers_back_as_they_are_read():
    s = store()
    entry = add(s, 1)
    s.offload(TOKEN)
    s.allow(TOKEN)
    assert same(s, entry, 1)
    assert s.device_bytes == TOKEN


def test_an_idle_entry_makes_room_for_the_run():
    s = store()
    s.allow(TOKEN)
    add(s, 1)
    s.begin_run(UNLIMITED, 1, TOKEN)
    entry = add(s, 2)
    assert entry.device_bytes == TOKEN and s.find(1).device_bytes == 0
    assert same(s, s.find(1), 1)


def test_without_any_allowance_everything_stays_in_ram():
    s = store()
    s.allow(0)
    entry = add(s, 1)
    assert entry.device_bytes == 0 and same(s, entry, 1)


def failing():
    yield from pairs(1)[:2]
    raise RuntimeError("out of luck")


def test_a_failed_computation_leaves_nothing():
    s = store()
    with pytest.raises(RuntimeError, match="out of luck"):
        s.add(1, failing(), Storage.MODEL, torch.float32)
    assert s.held() == [] and s.held_bytes == 0


def test_expected_bytes_are_wanted_until_they_are_there():
    s = store()
    s.begin_run(UNLIMITED, 5, TOKEN)
    assert s.wanted_bytes == 5 * TOKEN
    add(s, 1, tokens=5)
    assert s.wanted_bytes == 5 * TOKEN
    s.end_run()
    s.begin_run(UNLIMITED, 5, TOKEN)
    assert s.wanted_bytes == 5 * TOKEN, "an entry of that size is taken for the run's"


@pytest.mark.parametrize(("storage", "far"), [(Storage.INT8, 1e-2), (Storage.INT4, 1e-1)])
def test_fewer_bits_hold_less_and_come_back_near(storage, far):
    s = store()
    entry = add(s, 1, tokens=3, storage=storage)
    assert entry.nbytes == 3 * LAYERS * 2 * HEADS * storage.bytes_per_vector(HEAD_DIM, torch.float32)
    key, value = s.read(entry, 0)
    wanted_key, wanted_value = pairs(1, 3)[0]
    assert key.dtype == torch.float32
    for got, wanted in ((key, wanted_key), (value, wanted_value)):
        assert far / 10 < (got - wanted).norm() / wanted.norm() < far


def test_bytes_of_a_token_in_all_blocks():
    """5 blocks, key and value, 64 wide, 4 heads: int8 has one float32 scale for each, int4 one bfloat16."""
    model = SimpleNamespace(double_blocks=[0] * 2, single_blocks=[0] * 3, num_heads=4, hidden_size=64)
    assert bytes_per_token(model, Storage.MODEL, torch.float32) == 5 * 2 * 64 * 4
    assert bytes_per_token(model, Storage.MODEL, torch.bfloat16) == 5 * 2 * 64 * 2
    assert bytes_per_token(model, Storage.INT8, torch.bfloat16) == 5 * 2 * (64 + 4 * 4)
    assert bytes_per_token(model, Storage.INT4, torch.bfloat16) == 5 * 2 * (32 + 4 * 2)


def test_klein_9b_keeps_a_megapixel_in_2_gib_1_gib_and_two_thirds_of_one():
    model = SimpleNamespace(double_blocks=[0] * 8, single_blocks=[0] * 24, num_heads=32, hidden_size=4096)
    sizes = [4096 * bytes_per_token(model, storage, torch.bfloat16) / 2**30 for storage in Storage]
    assert sizes == [2, 1.03125, 0.625]


@pytest.mark.parametrize("storage", Storage)
def test_only_the_models_own_dtype_is_exact(storage):
    assert bool(storage.approximate) == (storage is not Storage.MODEL)
    assert storage.approximate == "" or storage.value in storage.approximate


def test_on_cpu_nothing_is_on_the_device_whatever_it_may_take():
    s = store()
    add(s, 1)
    s.end_run()
    s.begin_run(UNLIMITED, 2, TOKEN, Placement.CPU)
    assert s.device_bytes == 0, "what an earlier run left there makes way too"
    s.allow(UNLIMITED)
    entry = add(s, 2, tokens=2)
    assert same(s, entry, 2, tokens=2) and same(s, s.find(1), 1)
    assert s.device_bytes == s.wanted_bytes == 0 and s.held_bytes == 3 * TOKEN
    s.end_run()
    s.begin_run(UNLIMITED, 2, TOKEN)
    s.allow(UNLIMITED)
    assert same(s, s.find(2), 2, tokens=2) and s.device_bytes == 2 * TOKEN


def test_on_gpu_a_run_without_the_room_is_refused_with_numbers():
    s = store()
    s.begin_run(UNLIMITED, 2**20, 2**12, Placement.GPU)
    s.allow(2**31)
    with pytest.raises(NoRoom, match=r"need 4\.00 GiB on cpu.* 2\.00 GiB beside.*Set placement to auto or cpu"):
        s.require_room()
    s.allow(2**32)
    s.require_room()
    s.begin_run(UNLIMITED, 2**20, 2**12)
    s.allow(0)
    s.require_room()


def test_on_gpu_idle_references_make_way_and_the_runs_own_never_go_to_ram():
    s = store()
    s.allow(2 * TOKEN)
    add(s, 1)
    s.begin_run(UNLIMITED, 2, TOKEN, Placement.GPU)
    s.require_room()
    entry = add(s, 2, tokens=2)
    assert entry.device_bytes == 2 * TOKEN and s.find(1).device_bytes == 0
    s.offload(1)
    with pytest.raises(NoRoom):
        same(s, entry, 2, tokens=2)


def test_on_gpu_what_turns_out_larger_than_announced_is_refused_and_leaves_nothing():
    s = store()
    s.begin_run(UNLIMITED, 1, TOKEN, Placement.GPU)
    s.allow(TOKEN)
    s.require_room()
    with pytest.raises(NoRoom):
        add(s, 1, tokens=3)
    assert s.held() == [] and s.held_bytes == 0


CARD = torch.device("cpu", 0)


def on_a_card(room=UNLIMITED):
    manager = Manager(room=room)
    return ReferenceStore(CARD, manager.ram), manager


def test_what_is_in_ram_is_pinned_until_it_leaves():
    s, manager = on_a_card()
    entry = add(s, 1)
    assert manager.bytes == 0
    s.offload(TOKEN)
    assert manager.bytes == TOKEN and same(s, entry, 1)
    s.allow(TOKEN)
    assert same(s, entry, 1) and manager.bytes == 0 and s.device_bytes == TOKEN
    s.offload(1)
    assert manager.bytes == TOKEN // LAYERS


@pytest.mark.parametrize("how", ["over budget", "a failed computation", "the store is gone"])
def test_nothing_stays_pinned(how):
    s, manager = on_a_card()
    s.allow(0)
    if how == "a failed computation":
        with pytest.raises(RuntimeError):
            s.add(1, failing(), Storage.MODEL, torch.float32)
        assert manager.bytes == 0
        return
    add(s, 1)
    assert manager.bytes == TOKEN
    if how == "over budget":
        s.begin_run(0, 0, 0)
    del s
    gc.collect()
    assert manager.bytes == 0


def test_what_no_run_uses_is_dropped_where_ram_has_no_room_for_it():
    s, manager = on_a_card(room=TOKEN // LAYERS - 1)
    add(s, 1)
    s._in_use.clear()
    add(s, 2)
    assert s.offload(1) == TOKEN, "the whole of it: a part is of no use"
    assert s.held() == [2] and manager.bytes == 0
    assert s.offload(TOKEN) == TOKEN
    assert s.held() == [2] and same(s, s.find(2), 2), "the run's own stays, wherever"


LAYER = TOKEN // LAYERS


def test_what_a_run_would_add_in_ram_is_refused_where_that_has_no_room():
    s, manager = on_a_card(room=LAYER - 1)
    s.begin_run(UNLIMITED, 1, TOKEN)
    s.allow(LAYER)
    with pytest.raises(NoRoomAnywhere):
        add(s, 1)
    assert s.held() == [] and s.held_bytes == manager.bytes == 0
    s.allow(TOKEN)
    assert same(s, add(s, 1), 1), "on the card it takes no RAM"


def test_on_cpu_that_is_a_sentence_with_numbers():
    s, manager = on_a_card(room=LAYER - 1)
    s.begin_run(UNLIMITED, 2**20, 2**12, Placement.CPU)
    sentence = r"need 4\.00 GiB in RAM, and ComfyUI has room there for 0\.00 GiB beside what .* Set placement to auto, "
    with pytest.raises(NoRoom, match=sentence):
        add(s, 1)
    assert s.held() == [] and s.held_bytes == manager.bytes == 0


def test_idle_references_in_ram_make_way_for_the_runs():
    s, manager = on_a_card()
    add(s, 1)
    s.end_run()
    s.offload(TOKEN)
    manager.capacity = TOKEN
    s.begin_run(UNLIMITED, 1, TOKEN, Placement.CPU)
    assert same(s, add(s, 2), 2) and s.held() == [2]


class TestOutOfMemory:
    def test_everything_leaves_the_card(self):
        s, _ = on_a_card()
        entry = add(s, 1)
        s.make_way(0)
        assert s.device_bytes == 0 and same(s, entry, 1)

    def test_where_ram_has_no_room_it_is_refused(self):
        s, _ = on_a_card(room=TOKEN - 1)
        add(s, 1)
        with pytest.raises(NoRoomAnywhere):
            s.make_way(0)

    def test_idle_references_go_first(self):
        s, _ = on_a_card(room=TOKEN)
        add(s, 1)
        s.end_run()
        entry = add(s, 2)
        s.make_way(0)
        assert s.held() == [2] and s.device_bytes == 0 and same(s, entry, 2)

    def test_what_lies_in_ram_already_needs_none(self):
        s, manager = on_a_card()
        s.begin_run(UNLIMITED, 1, TOKEN, Placement.CPU)
        entry = add(s, 1)
        manager.room = -1
        s.make_way(0)
        assert same(s, entry, 1)

    def test_on_gpu_it_is_said_how_much_was_there(self):
        s, _ = on_a_card()
        s.begin_run(UNLIMITED, 2**20, 2**12, Placement.GPU)
        with pytest.raises(NoRoom, match=r"need 4\.00 GiB on cpu:0, and ComfyUI has 3\.00 GiB there for them and"):
            s.make_way(3 * 2**30)


def test_a_run_that_ends_while_ram_is_short_drops_what_lies_there():
    s, manager = on_a_card()
    for name in (1, 2, 3):
        add(s, name)
    s.offload(TOKEN + 1)
    manager.room = -1
    s.end_run()
    assert s.held() == [3] and s.device_bytes == TOKEN, "what is on the card takes no RAM"
    assert manager.bytes == 0


def test_without_a_card_all_of_it_lies_in_ram():
    manager = Manager(room=-1)
    s = ReferenceStore(torch.device("cpu"), manager.ram)
    add(s, 1)
    s.offload(TOKEN)
    assert manager.bytes == 0 and s.held() == [1]
    s.end_run()
    assert s.held() == []


def test_room_is_taken_hold_of_for_what_will_come_back_from_ram():
    """Else the model beside it would be loaded into that room, and memory would run out in the first step."""
    s, _ = on_a_card()
    add(s, 1, tokens=2)
    s.end_run()
    s.offload(2 * TOKEN)
    s.begin_run(UNLIMITED, 2, TOKEN)
    assert s.device_bytes == 0 and s.wanted_bytes == 2 * TOKEN
    s.allow(2 * TOKEN)
    assert s.device_bytes == 2 * TOKEN
    entry = s.find(1)
    assert same(s, entry, 1, tokens=2) and entry.device_bytes == s.device_bytes == 2 * TOKEN


def test_idle_references_in_ram_are_not_wanted_on_the_card():
    s, _ = on_a_card()
    for name in (1, 2):
        add(s, name, tokens=name)
    s.end_run()
    s.offload(3 * TOKEN)
    s.begin_run(UNLIMITED, 1, TOKEN)
    assert s.wanted_bytes == TOKEN
    s.begin_run(UNLIMITED, 0, 0)
    assert s.wanted_bytes == 0


class Anything(RuleBasedStateMachine):
    """Whatever is done to it, a store answers with what was put in, and within its bounds."""

    def __init__(self):
        super().__init__()
        self.store, self.manager = on_a_card()
        self.running = False
        self.budget = UNLIMITED

    @precondition(lambda self: not self.running)
    @rule(
        budget=st.integers(0, 6).map(lambda n: n * TOKEN),
        tokens=st.integers(0, 3),
        placement=st.sampled_from([Placement.AUTO, Placement.CPU]),
    )
    def begin(self, budget, tokens, placement):
        self.budget = budget
        self.store.begin_run(budget, tokens, TOKEN, placement)
        self.running = True

    @precondition(lambda self: self.running)
    @rule(name=st.integers(1, 4))
    def use(self, name):
        try:
            entry = self.store.find(name) or add(self.store, name, tokens=name)
        except (NoRoom, NoRoomAnywhere):
            assert self.manager.room < 0 and name not in self.store.held()
            return
        assert same(self.store, entry, name, tokens=name)

    @precondition(lambda self: self.running)
    @rule()
    def end(self):
        self.store.end_run()
        self.running = False

    @rule(size=st.integers(0, 8 * TOKEN))
    def allow(self, size):
        self.store.allow(size)

    @rule(short=st.booleans())
    def ram(self, short):
        self.manager.room = -1 if short else UNLIMITED

    @rule(size=st.integers(0, 8 * TOKEN))
    def offload(self, size):
        before = self.store.device_bytes
        freed = self.store.offload(size)
        assert freed >= min(size, before)
        assert self.store.device_bytes == before - freed

    @invariant()
    def within_bounds(self):
        assert self.store.device_bytes <= self.store.allowance
        assert self.store.device_bytes <= self.store.wanted_bytes
        assert self.store.placement is not Placement.CPU or self.store.device_bytes == 0
        assert self.manager.bytes == self.store.held_bytes - self.store._kept_on_device
        if not self.running:
            assert self.store.held_bytes <= self.budget


TestAnything = Anything.TestCase
TestAnything.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
