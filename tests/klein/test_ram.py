"""Copies in RAM: pinned where that is granted, and unpinned before their memory is gone."""

import gc
import sys

import pytest
import torch
from ram_manager import Manager

from klein9b.klein.ram import PLAIN


def pair():
    return torch.arange(6.0).reshape(2, 3), torch.arange(4, dtype=torch.int8)


def same(copy):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(copy.tensors, pair()))


def test_a_copy_is_pinned_while_it_lives():
    manager = Manager()
    copy = manager.ram.copy(pair())
    assert same(copy) and copy.pinned_bytes == manager.bytes == 28
    del copy
    gc.collect()
    assert manager.bytes == 0


@pytest.mark.parametrize("pins", [0, 1])
def test_what_is_not_granted_is_plain(pins):
    manager = Manager(pins)
    copy = manager.ram.copy(pair())
    assert same(copy) and copy.pinned_bytes == manager.bytes == (24 if pins else 0)
    copy.release()
    copy.release()
    assert same(copy) and manager.bytes == 0


def test_plain_ram_grants_room_alone():
    assert PLAIN.has_room(2**60) and PLAIN.copy(pair()).pinned_bytes == 0


def test_it_is_another_memory():
    tensors = pair()
    copy = PLAIN.copy(tensors)
    tensors[0].zero_()
    assert same(copy)


def test_what_ram_cannot_hold_is_one_error(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    manager = Manager()
    with pytest.raises(RuntimeError):
        manager.ram.copy((*pair(), torch.zeros(1).expand(2**60)))
    gc.collect()
    assert unraisable == [] and manager.bytes == 0
