"""Where the store keeps what it holds: on the card or in RAM, pinned, and what makes way where either is short."""

import gc

import pytest
import torch
from kv_stores import LAYERS, TOKEN, add, failing, on_a_card, same, store
from ram_manager import Manager

from klein9b.klein.kv_store import UNLIMITED, NoRoom, NoRoomAnywhere, Placement, ReferenceStore, Storage


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
