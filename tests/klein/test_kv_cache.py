"""Which entry belongs to the references at hand."""

import pytest
import torch

from klein9b.klein.kv_cache import PositionedReference, ReferenceKey, ReferenceRun
from klein9b.klein.kv_store import ReferenceStore, Storage


def latent(seed, rows=1):
    return torch.randn(rows, 4, 2, 3, generator=torch.Generator().manual_seed(seed))


def position(one, index):
    return PositionedReference(one.flatten(2).transpose(1, 2), torch.full((1, 6, 1), float(index)))


class Counting:
    """A store, and a run on it whose every computation is counted."""

    def __init__(self, storage=Storage.MODEL):
        self.store = ReferenceStore(torch.device("cpu"))
        self.storage = storage
        self.computed = []
        self.new_run()

    def new_run(self):
        self.run = ReferenceRun(self.store, self.storage)

    def compute(self, tokens, ids):
        self.computed.append(tuple(tokens.shape))
        yield tokens[:, None] + ids[:, None], tokens[:, None]

    def entry(self, *latents, weights="w"):
        return self.run.entry(latents, weights, position, self.compute)

    def rows(self, *latents):
        return self.run.entries(latents, "w", position, self.compute)


def test_a_step_recognises_the_references_of_the_step_before():
    c = Counting()
    assert c.entry(latent(1), latent(2)) is c.entry(latent(1), latent(2))
    assert c.computed == [(1, 12, 4)]
    assert (c.run.report.hits, c.run.report.misses, c.run.report.references) == (0, 1, 2)


def test_a_run_finds_what_an_earlier_one_computed():
    c = Counting()
    first = c.entry(latent(1))
    c.new_run()
    assert c.entry(latent(1)) is first
    assert (c.run.report.hits, c.run.report.misses) == (1, 0)
    assert c.run.report.seconds_saved == first.seconds > 0


def test_tokens_that_stay_are_told_apart_within_a_run():
    """Two evaluations of a step may leave other tokens of the same references."""
    c = Counting()

    def of(*kept):
        def some(one, index):
            whole = position(one, index)
            return PositionedReference(whole.tokens[:, kept], whole.ids[:, kept])

        return c.run.entry([latent(1)], "w", some, c.compute, kept)

    assert of(0, 1) is of(0, 1) and of(0, 1) is not of(0, 2)
    assert c.computed == [(1, 2, 4)] * 2


def test_weights_that_change_within_a_run_are_seen():
    c = Counting()
    assert c.entry(latent(1), weights="w") is not c.entry(latent(1), weights="other")


def test_references_changed_in_place_are_seen():
    c = Counting()
    mine = latent(1)
    first = c.entry(mine)
    mine += 1
    assert c.entry(mine) is not first


def test_dtype_counts_even_where_the_values_are_equal():
    c = Counting()
    whole = latent(1).round()
    assert c.entry(whole) is not c.entry(whole.to(torch.bfloat16))
    c.new_run()
    assert c.entry(whole.to(torch.float64)) not in (None, c.entry(whole))


def test_rows_of_a_batch_are_computed_alone_and_shared_where_equal():
    c = Counting()
    same = c.rows(latent(1).expand(3, -1, -1, -1))
    assert c.computed == [(1, 6, 4)] and same.read(0).pair[0].shape[0] == 1
    different = c.rows(torch.cat((latent(1), latent(2), latent(1))))
    assert c.computed == [(1, 6, 4)] * 2
    key, value = different.read(0).pair
    assert key.shape[0] == 3 and torch.equal(key[0], key[2]) and not torch.equal(value[0], value[1])


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("batch", [(1,), (1, 1), (1, 2, 1)], ids=["one row", "rows alike", "rows that differ"])
def test_rows_at_hand_are_the_rows_of_the_store_and_stay_when_it_moves_them(storage, batch):
    c = Counting(storage)
    rows = c.rows(torch.cat([latent(seed) for seed in batch]))
    at_hand = rows.at_hand()
    wanted = rows.read(0).pair
    c.store.offload(2**30)
    c.store.begin_run(0, 0, 0)
    assert not c.store.held()
    assert all(map(torch.equal, at_hand.read(0).pair, wanted))


def test_only_added_references_extend_a_set():
    def key(*names, storage=Storage.MODEL, weights="w"):
        return ReferenceKey(names, storage, weights)

    assert key("a", "b").extends(key("a"))
    assert not key("a").extends(key("a", "b")) and not key("a").extends(key("a"))
    assert not key("b", "a").extends(key("a"))
    assert not key("a", "b").extends(key("a", storage=Storage.INT8))
    assert not key("a", "b").extends(key("a", weights="other"))
    assert not key("a", "b").extends("a")


def test_extension_is_reported():
    c = Counting()
    c.entry(latent(1))
    c.new_run()
    c.entry(latent(1), latent(2))
    assert c.run.report.extended and c.computed[-1] == (1, 12, 4)
    c.new_run()
    c.entry(latent(3), latent(2))
    assert not c.run.report.extended
