"""The rotation matrices of all positions, made once a run: the host makes them anew in every evaluation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from .as_written import is_as_written
from .block_functions import is_hung_onto
from .changed_tokens import ChangedTokens

AT_MOST = 4
EMBEDDER = "comfy.ldm.flux.layers", "EmbedND"


class PositionTables:
    """The tables of the last few layouts of tokens."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, Tensor] = {}

    def find_or_make(self, key: Hashable | None, model: Any, *ids: Tensor) -> Tensor:
        """The table of ids (batch, tokens, axes) one behind the other, as the model makes it.

        Args:
            key: equal only for equal ids; None where nobody knows.
        """
        found = None if key is None else self._tables.get(key)
        if found is not None:
            return found
        table: Tensor = model.pe_embedder(torch.cat(ids, dim=1))
        if key is not None:
            while len(self._tables) >= AT_MOST:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = table
        return table

    def forget(self) -> None:
        self._tables.clear()


def tables_key(
    model: Any, x: Tensor, context: Tensor, references: Sequence[Tensor] | None, method: str, options: dict[str, Any]
) -> Hashable | None:
    """All that the host makes positions of; None where another node may change them, from step to step too."""
    changes = options.get("patches", {}).get("post_input", ())
    if any(not isinstance(one, ChangedTokens) for one in changes) or not _is_hosts_own(model):
        return None
    sizes = tuple(tuple(reference.shape) for reference in references or ())
    rope = repr(sorted((options.get("rope_options") or {}).items()))
    changed = tuple(one.described for one in changes)
    return tuple(x.shape), x.device, context.shape[1], sizes, method, rope, changed


def _is_hosts_own(model: Any) -> bool:
    """Whether positions, and the table made of them, depend on nothing else."""
    import comfy.ldm.flux.model

    embedder, kind = model.pe_embedder, type(model.pe_embedder)
    is_theirs = (kind.__module__, kind.__name__) == EMBEDDER and is_as_written(kind, "forward", embedder)
    by_host = is_theirs and not is_hung_onto(embedder)
    return by_host and is_as_written(comfy.ldm.flux.model.Flux, "process_img", model)
