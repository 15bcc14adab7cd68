"""A LoRA file's tensors at their places in Klein, or named with the reason why not.

Names and shapes are enough to plan. Nothing here adds to a weight: the tensors are handed on under names of their own,
each for one matrix or for rows of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .lora_family import made_for, name_of
from .lora_metadata import stated_alpha
from .lora_names import Place, find_place
from .lora_parts import ALPHA, DIFF, DORA, UP, Kind, Module, Shape, Unusable, modules_of
from .vram import Dims

_TEXT_ENCODER = re.compile(r"(lora_|lycoris_)?(te\d?|text_encoders?(_\d)?|clip_[lg]|t5xxl)[._]")
_NAMED = 4


@dataclass(frozen=True)
class Adapter:
    """One module of the file.

    Attributes:
        module: its name in the file.
        parts: ComfyUI's name of each tensor -> its key in the file.
        rank: of its product, 0 where it has none.
        alpha: what the file's metadata say; a tensor of that name goes before it.
        swapped: the parts whose first half of rows goes behind the second.
    """

    module: str
    place: Place
    kind: Kind
    parts: Mapping[str, str]
    rank: int
    alpha: float | None = None
    swapped: frozenset[str] = frozenset()

    @property
    def decomposed(self) -> bool:
        """Whether it is a DoRA, with magnitudes of its own."""
        return DORA in self.parts

    @property
    def name(self) -> str:
        """What it is called among the tensors for ComfyUI."""
        place = self.place
        return place.layer if place.whole else f"{place.layer}.rows_{place.start}_{place.rows}"


@dataclass(frozen=True)
class Unplaced:
    """Keys of one module as the file has them, and a clause that says why it is left out."""

    keys: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class LoraPlan:
    """What of a file goes where."""

    adapters: tuple[Adapter, ...]
    unplaced: tuple[Unplaced, ...]

    @property
    def modules(self) -> int:
        """In the file."""
        return len(self.adapters) + len(self.unplaced)


def plan_lora(shapes: Mapping[str, Shape], dims: Dims, metadata: Mapping[str, str]) -> LoraPlan:
    """Where each tensor of a file goes.

    Args:
        shapes: of the file's tensors by name.
        metadata: the file's own.
    """
    modules, left = modules_of(shapes)
    adapters: dict[str, Adapter] = {}
    unplaced = [Unplaced((key,), reason) for key, reason in left.items()]
    for name, module in modules.items():
        try:
            adapter = _adapter(name, module, dims, metadata)
            if adapter.name in adapters:
                raise Unusable(f"{adapters[adapter.name].module} changes the same layer")
            adapters[adapter.name] = adapter
        except Unusable as why:
            unplaced.append(Unplaced(tuple(module.keys.values()), str(why)))
    return LoraPlan(tuple(adapters.values()), tuple(unplaced))


def tensors_for_host(plan: LoraPlan, file: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under `Adapter.name` and ComfyUI's name of the part, rows in ComfyUI's order."""
    tensors = {}
    for one in plan.adapters:
        for part, key in one.parts.items():
            tensor = swap_halves(file[key]) if part in one.swapped else file[key]
            tensors[f"{one.name}.{part}"] = tensor[:, None] if part == DORA and tensor.ndim == 1 else tensor
        if one.alpha is not None and ALPHA not in one.parts:
            tensors[f"{one.name}.{ALPHA}"] = torch.tensor(one.alpha)
    return tensors


def swap_halves(tensor: Tensor) -> Tensor:
    """Its second half of rows before the first."""
    first, second = tensor.chunk(2)
    return torch.cat((second, first))


def summary(plan: LoraPlan, tensors: Mapping[str, Tensor]) -> str:
    """For the person in front of the node: what was placed, of which kind, rank and alpha, and what was not.

    Args:
        tensors: as `tensors_for_host` gives them.
    """
    alphas = {one.name: float(tensors[key]) for one in plan.adapters if (key := f"{one.name}.{ALPHA}") in tensors}
    kinds = sorted({one.kind.value + " as DoRA" * one.decomposed for one in plan.adapters})
    ranks = _range([one.rank for one in plan.adapters if one.rank])
    strengths = _range([alphas.get(one.name, one.rank) for one in plan.adapters if one.rank])
    of_rank = f", rank {ranks}, alpha {strengths}" if ranks else ""
    return f"placed {len(plan.adapters)} of {plan.modules} layers: {' and '.join(kinds)}{of_rank}"


def not_placed(plan: LoraPlan, most: int = _NAMED) -> list[str]:
    """A line for each reason with the keys it holds for, so many of them by name."""
    by_reason: dict[str, list[str]] = {}
    for one in plan.unplaced:
        by_reason.setdefault(one.reason, []).extend(one.keys)
    return [f"not placed, {reason}: {_listed(keys, most)}" for reason, keys in by_reason.items()]


def refuse_unplaced(plan: LoraPlan, shapes: Mapping[str, Shape], dims: Dims, file: str) -> None:
    """Raises ValueError where nothing of a LoRA has a place, with what the file seems to be."""
    if plan.adapters:
        return
    name, this = made_for(shapes), name_of(dims)
    if name and name != this:
        raise ValueError(f"{file} is made for {name}, but the model is {this}: choose a LoRA that was trained on that.")
    first = plan.unplaced[0]
    of = f"all {plan.modules}" if plan.modules > 1 else "its only one"
    raise ValueError(
        f"{file} has no layer that can be placed ({of} left out; {first.keys[0]}: {first.reason}): choose a LoRA "
        f"trained on {this}, or download this one again."
    )


def _listed(keys: list[str], most: int) -> str:
    more = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {more} more" if more > 0 else "")


def _range(numbers: list[float]) -> str:
    if not numbers:
        return ""
    least, most = min(numbers), max(numbers)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _adapter(name: str, module: Module, dims: Dims, metadata: Mapping[str, str]) -> Adapter:
    place = find_place(name, dims)
    if place is None:
        of_text = _TEXT_ENCODER.match(name)
        raise Unusable("it is for a text encoder, which is left as it is" if of_text else "Klein has no such layer")
    kind = module.kind()
    changes, has = module.changes(kind), (place.rows, place.columns)
    if changes != has:
        raise Unusable(f"it is made for a layer of {_size(changes)}, Klein's has {_size(has)}")
    if module.shapes.get(DORA, (has[0], 1)) not in ((has[0],), (has[0], 1), (1, has[1])):
        raise Unusable(f"its magnitudes of {_size(module.shapes[DORA])} are neither of rows nor of columns")
    swapped = _swapped(kind, module) if place.halves_swapped else frozenset()
    alpha = stated_alpha(metadata, name, module.rank) if kind is Kind.LORA else None
    return Adapter(name, place, kind, module.keys, module.rank, alpha, swapped)


def _swapped(kind: Kind, module: Module) -> frozenset[str]:
    """The parts whose rows are the difference's own; half of them is half of it."""
    rows = module.shapes.keys() & {UP, "hada_w1_a", "hada_w2_a", DIFF}
    if kind is Kind.LOKR:
        rows = {_outer(module)}
    if module.shapes.get(DORA, (1,))[0] > 1:
        rows = rows | {DORA}
    return frozenset(rows)


def _outer(module: Module) -> str:
    """The factor whose rows lie furthest apart in a Kronecker product."""
    for factor in ("lokr_w1", "lokr_w2"):
        part = factor if factor in module.shapes else f"{factor}_a"
        if module.shapes[part][0] % 2 == 0:
            return part
        if module.shapes[part][0] > 1:
            break
    raise Unusable("its rows cannot be put in ComfyUI's order: a LoKr of an odd first factor has no halves")


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))
