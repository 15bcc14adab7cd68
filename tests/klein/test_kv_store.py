"""The store: what is found, for how long, in how many bits, whatever is done to it. All on CPU."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kv_stores import HEAD_DIM, HEADS, LAYERS, TOKEN, add, failing, on_a_card, pairs, same, store

from klein9b.klein.kv_store import UNLIMITED, NoRoom, NoRoomAnywhere, Placement, Storage, bytes_per_token


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


def test_a_set_for_each_picture_of_a_batch_is_wanted():
    s = store()
    s.begin_run(UNLIMITED, 5, TOKEN, sets=3)
    for name in (1, 2):
        add(s, name, tokens=5)
    assert s.wanted_bytes == 3 * 5 * TOKEN
    s.end_run()
    s.begin_run(UNLIMITED, 5, TOKEN, sets=2)
    assert s.wanted_bytes == 2 * 5 * TOKEN, "both are there"


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
    def rest(self):
        self.store.rest()

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


class TestWhatRests:
    """A run that comes back to several sets, one after the other, as tiles of a picture do."""

    def one_round(self, s, names):
        """How many were found."""
        found = 0
        for name in names:
            s.rest()
            if s.find(name) is None:
                add(s, name)
            else:
                found += 1
        return found

    def test_it_stays_to_the_end_of_the_run_whatever_the_budget(self):
        s = store()
        s.begin_run(0, 1, TOKEN)
        assert [self.one_round(s, range(4)) for _ in range(2)] == [0, 4]
        s.end_run()
        assert s.held() == []

    def test_the_first_are_kept_so_that_the_next_run_finds_them(self):
        s = store()
        s.begin_run(2 * TOKEN, 1, TOKEN)
        self.one_round(s, range(4))
        s.end_run()
        assert s.held() == [0, 1]
        s.begin_run(2 * TOKEN, 1, TOKEN)
        assert self.one_round(s, range(4)) == 2

    def test_those_of_earlier_runs_go_before_them(self):
        s = store()
        s.begin_run(2 * TOKEN, 1, TOKEN)
        add(s, 9)
        s.end_run()
        s.begin_run(2 * TOKEN, 1, TOKEN)
        self.one_round(s, range(2))
        s.end_run()
        assert s.held() == [0, 1]

    def test_where_the_card_and_the_ram_are_full_it_makes_way_and_is_computed_again(self):
        s, manager = on_a_card()
        s.begin_run(UNLIMITED, 1, TOKEN)
        s.allow(TOKEN)
        self.one_round(s, range(2))
        manager.room = -1
        assert self.one_round(s, range(5)) < 5
        assert s.device_bytes <= TOKEN and same(s, s.find(4), 4)

    def test_what_is_in_use_never_does(self):
        s, _ = on_a_card(room=-1)
        s.begin_run(UNLIMITED, 1, TOKEN)
        s.allow(TOKEN)
        entry = add(s, 1)
        with pytest.raises(NoRoomAnywhere):
            add(s, 2)
        assert s.held() == [1] and same(s, entry, 1)
        s.rest()
        assert same(s, add(s, 2), 2) and s.held() == [2]
