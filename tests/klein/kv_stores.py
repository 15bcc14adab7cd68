"""Stores, and small keys and values to put into them, known by a number."""

import torch
from ram_manager import Manager

from klein9b.klein.kv_store import UNLIMITED, ReferenceStore, Storage

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


def failing():
    yield from pairs(1)[:2]
    raise RuntimeError("out of luck")


def same(s, entry, name, tokens=1):
    return all(
        torch.equal(got, wanted)
        for i, pair in enumerate(pairs(name, tokens))
        for got, wanted in zip(s.read(entry, i), pair)
    )


CARD = torch.device("cpu", 0)


def on_a_card(room=UNLIMITED):
    manager = Manager(room=room)
    return ReferenceStore(CARD, manager.ram), manager
