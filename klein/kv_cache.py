"""The exact reference cache: which stored keys and values belong to the references at hand.

A key is made of everything the keys and values depend on: each reference's content, order, positions and dtype, how
they are stored, and the weights with all that is patched into them. Nothing else may be in it, so that an entry serves
every step, prompt, seed, cfg branch and output size; nothing may be missing, so that it is never stale.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.eager.append_kv import KeyValue
from ..kernels.eager.kv_int4 import unpack_kv_int4_
from ..kernels.ops import Ops
from .kv_store import Entry, ReferenceStore, Storage, Tensors


@dataclass(frozen=True)
class PositionedReference:
    """One reference as the model reads it: tokens (1, n, channels) and their positions (1, n, axes)."""

    tokens: Tensor
    ids: Tensor

    @property
    def digest(self) -> str:
        """Of shape, dtype and every byte."""
        content = hashlib.sha256()
        for tensor in (self.tokens, self.ids):
            content.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
            content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class ReferenceKey:
    """What keys and values depend on.

    Attributes:
        references: each reference's digest, in order.
        weights: equal only while the model computes the same from the same input.
    """

    references: tuple[str, ...]
    storage: Storage
    weights: Hashable

    def extends(self, other: object) -> bool:
        """Whether this is the other set with references added behind it."""
        return (
            isinstance(other, ReferenceKey)
            and (self.storage, self.weights) == (other.storage, other.weights)
            and 0 < len(other.references) < len(self.references)
            and self.references[: len(other.references)] == other.references
        )


@dataclass
class RunReport:
    """What one run did: sets of references found and computed, and the seconds of either.

    Attributes:
        extended: a computed set was a kept one with references added. All were computed, as they attend to each other.
    """

    hits: int = 0
    misses: int = 0
    references: int = 0
    seconds_spent: float = 0.0
    seconds_saved: float = 0.0
    extended: bool = False


@dataclass(frozen=True)
class _Seen:
    latents: tuple[Tensor, ...]
    weights: Hashable
    kept: Hashable
    entry: Entry

    def matches(self, latents: Sequence[Tensor], weights: Hashable, kept: Hashable) -> bool:
        return (
            (self.weights, self.kept) == (weights, kept)
            and len(self.latents) == len(latents)
            and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(self.latents, latents))
        )


class ReferenceRun:
    """One run's use of a store: looks a set up by content once, then recognises it from step to step."""

    def __init__(self, store: ReferenceStore, storage: Storage) -> None:
        self.store = store
        self.storage = storage
        self.report = RunReport()
        self._seen: list[_Seen] = []

    def entry(
        self,
        latents: Sequence[Tensor],
        weights: Hashable,
        position: Callable[[Tensor, int], PositionedReference],
        compute: Callable[[Tensor, Tensor], Iterator[KeyValue]],
        kept: Hashable = None,
    ) -> Entry:
        """Keys and values of these references, found or computed.

        Args:
            latents: each (1, channels, height, width), on the model's device and in its dtype.
            weights: equal only while the model computes the same from the same input.
            position: a latent and its place in the order, from 0 -> tokens and positions.
            compute: tokens and positions of all references -> every block's key and value.
            kept: equal only where `position` leaves the same tokens of a latent.
        """
        for seen in self._seen:
            if seen.matches(latents, weights, kept):
                return seen.entry
        references = [position(latent, i) for i, latent in enumerate(latents)]
        key = ReferenceKey(tuple(r.digest for r in references), self.storage, weights)
        entry = self._find(key) or self._compute(key, references, latents[0].dtype, compute)
        self.report.references = max(self.report.references, len(latents))
        self._seen.append(_Seen(tuple(latent.clone() for latent in latents), weights, kept, entry))
        return entry

    def entries(
        self,
        batch: Sequence[Tensor],
        weights: Hashable,
        position: Callable[[Tensor, int], PositionedReference],
        compute: Callable[[Tensor, Tensor], Iterator[KeyValue]],
        kept: Hashable = None,
    ) -> ReferenceRows:
        """As `entry`, for references (batch, channels, height, width) whose rows may differ.

        Every row is computed alone: keys and values do not depend on what else is in the batch.
        """
        count = batch[0].shape[0]
        rows = [[latent[i : i + 1] for latent in batch] for i in range(count)]
        return ReferenceRows(self.store, [self.entry(row, weights, position, compute, kept) for row in rows])

    def rest(self) -> None:
        """As the store's. What rests may be dropped, so it is looked up by content again."""
        self._seen.clear()
        self.store.rest()

    def _find(self, key: ReferenceKey) -> Entry | None:
        entry = self.store.find(key)
        if entry is not None:
            self.report.hits += 1
            self.report.seconds_saved += entry.seconds
        return entry

    def _compute(
        self,
        key: ReferenceKey,
        references: Sequence[PositionedReference],
        dtype: torch.dtype,
        compute: Callable[[Tensor, Tensor], Iterator[KeyValue]],
    ) -> Entry:
        extended = any(key.extends(held) for held in self.store.held())
        tokens = torch.cat([r.tokens for r in references], dim=1)
        ids = torch.cat([r.ids for r in references], dim=1)
        started = _now(tokens.device)
        entry = self.store.add(key, compute(tokens, ids), self.storage, dtype)
        entry.seconds = _now(tokens.device) - started
        self.report.misses += 1
        self.report.seconds_spent += entry.seconds
        self.report.extended |= extended
        return entry


@dataclass(frozen=True)
class ReferenceRows:
    """One entry for each row of a batch."""

    store: ReferenceStore
    entries: Sequence[Entry]

    def read(self, index: int) -> BlockReferences:
        """Those of one block."""
        first, *_ = self.entries
        distinct = tuple(self.store.fetch(entry, index) for entry in self._distinct)
        return BlockReferences(first.storage, first.dtype, distinct, self._order)

    def at_hand(self) -> RowsAtHand:
        """The same for whoever cannot ask the store block by block. All of it is on the device as long as this is."""
        first, *_ = self.entries
        blocks = tuple(
            tuple(self.store.fetch(entry, index) for entry in self._distinct) for index in range(len(first.layers))
        )
        return RowsAtHand(first.storage, first.dtype, blocks, self._order)

    @property
    def _distinct(self) -> list[Entry]:
        return list({id(entry): entry for entry in self.entries}.values())

    @property
    def _order(self) -> tuple[int, ...]:
        places = {id(entry): place for place, entry in enumerate(self._distinct)}
        return tuple(places[id(entry)] for entry in self.entries)


@dataclass(frozen=True)
class RowsAtHand:
    """Plain tensors, so that compiled code can be given them.

    Attributes:
        blocks: of each block, every distinct entry's tensors as they are stored.
        order: which entry each row of the batch has.
    """

    storage: Storage
    dtype: torch.dtype
    blocks: tuple[tuple[Tensors, ...], ...]
    order: tuple[int, ...]

    def read(self, index: int) -> BlockReferences:
        """As `ReferenceRows.read`."""
        return BlockReferences(self.storage, self.dtype, self.blocks[index], self.order)


@dataclass(frozen=True)
class BlockReferences:
    """The references' keys and values for one block.

    Attributes:
        distinct: every distinct entry's tensors as they are stored.
        order: which entry each row of the batch has.
    """

    storage: Storage
    dtype: torch.dtype
    distinct: tuple[Tensors, ...]
    order: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return self.distinct[0][0].shape[2]

    @property
    def pair(self) -> KeyValue:
        """(batch, heads, tokens, head_dim) each, or one row where all rows share it."""
        pairs = [self.storage.unpack(tensors, self.dtype) for tensors in self.distinct]
        if len(pairs) == 1:
            return pairs[0]
        keys, values = zip(*(pairs[place] for place in self.order))
        return torch.cat(keys), torch.cat(values)

    def write_(self, key: Tensor, value: Tensor, ops: Ops) -> None:
        """Into (batch, heads, tokens, head_dim) each, which may be views."""
        if len(self.distinct) == 1:
            self._write_(key, value, self.distinct[0], ops)
            return
        for row, place in enumerate(self.order):
            self._write_(key[row : row + 1], value[row : row + 1], self.distinct[place], ops)

    def _write_(self, key: Tensor, value: Tensor, tensors: Tensors, ops: Ops) -> None:
        if self.storage is Storage.MODEL:
            ops.write_kv_(key, value, (tensors[0], tensors[1]))
            return
        key_levels, key_scale, value_levels, value_scale = tensors
        if self.storage is Storage.INT8:
            ops.write_kv_int8_(key, value, (key_levels, key_scale, value_levels, value_scale))
            return
        for target, levels, scale in ((key, key_levels, key_scale), (value, value_levels, value_scale)):
            unpack_kv_int4_(target, levels, scale)


def _now(device: torch.device) -> float:
    """Seconds, after the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
