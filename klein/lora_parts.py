"""A LoRA file's keys put together as modules: which kind each is, and the matrix that it changes.

Four kinds, after LyCORIS and as ComfyUI's comfy/weight_adapter computes them:

    LoRA          alpha / rank * up @ down
    LoHa          alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b)
    LoKr          alpha / rank * kron(w1, w2), each whole or a product a @ b; alpha is not read without a product
    full weights  the difference itself

Without an alpha the factor is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod

Shape = tuple[int, ...]

UP, DOWN, ALPHA, DORA, DIFF = "lora_up.weight", "lora_down.weight", "alpha", "dora_scale", "diff"
_PAIR = re.compile(r"(.+?)[._]lora[._](?:linear_layer\.)?(A|B|down|up)(?:\.(?!bias$)\w+?)??(?:\.weight)?", re.DOTALL)
_OTHER = re.compile(
    r"(.+)\.(alpha|dora_scale|lokr_w[12](?:_[ab])?|lokr_t2|hada_w[12]_[ab]|hada_t[12]|diff|lora_mid|"
    r"lora_magnitude_vector)(?:\.(?!bias$)\w+?)??(?:\.weight)?",
    re.DOTALL,
)
_HALVES = {"A": DOWN, "down": DOWN, "B": UP, "up": UP}
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_OF_CONVOLUTIONS = {"lora_mid", "lokr_t2", "hada_t1", "hada_t2"}
_NAMES = {"lora_magnitude_vector": DORA}  # as PEFT calls it
_RANKED = (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b")


class Kind(Enum):
    LORA = "LoRA"
    LOHA = "LoHa"
    LOKR = "LoKr"
    FULL = "full weights"


class Unusable(ValueError):
    """Why a module of the file is left out, as a clause."""


@dataclass
class Module:
    """Tensors of one module.

    Attributes:
        keys: ComfyUI's name of a part -> its key in the file.
        shapes: part -> shape.
    """

    keys: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Of its product, 0 where it has none."""
        return next((self.shapes[part][0] for part in _RANKED if part in self.shapes), 0)

    def kind(self) -> Kind:
        """Raises Unusable where ComfyUI cannot add it."""
        if self.keys.keys() & _OF_CONVOLUTIONS:
            raise Unusable("it is made for a convolution")
        if prod(self.shapes.get(ALPHA, ())) != 1:
            raise Unusable("its alpha is not one number")
        kinds = [kind for kind, marks in _MARKS.items() if any(part.startswith(marks) for part in self.keys)]
        if len(kinds) != 1:
            words = " and ".join(kind.value for kind in kinds)
            raise Unusable(f"it is {words} at once" if kinds else "it is an alpha or a scale alone")
        lacking = " and ".join(_lacking(kinds[0], self.keys))
        if lacking:
            raise Unusable(f"its {lacking} is missing")
        if kinds[0] is Kind.FULL and DORA in self.keys:
            raise Unusable("its magnitudes belong to no LoRA")
        return kinds[0]

    def changes(self, kind: Kind) -> Shape:
        """Rows and columns of the difference. Raises Unusable where its tensors do not go together."""
        matrices = [shape for part, shape in self.shapes.items() if part not in (ALPHA, DORA)]
        if any(len(shape) < 2 or not prod(shape) for shape in matrices):
            raise Unusable("its tensors are no matrices")
        if kind is Kind.LORA:
            return _product(self.shapes[UP], self.shapes[DOWN])
        if kind is Kind.LOHA:
            first, second = (_product(*(self.shapes[f"hada_{w}_{half}"] for half in "ab")) for w in ("w1", "w2"))
            return _same(first, second)
        if kind is Kind.LOKR:
            (rows_1, columns_1), (rows_2, columns_2) = (self._factor(one) for one in ("lokr_w1", "lokr_w2"))
            return rows_1 * rows_2, columns_1 * columns_2
        return _matrix(self.shapes[DIFF])

    def _factor(self, one: str) -> Shape:
        if one in self.shapes:
            return _matrix(self.shapes[one])
        return _product(self.shapes[f"{one}_a"], self.shapes[f"{one}_b"])


_MARKS: dict[Kind, tuple[str, ...]] = {
    Kind.LORA: (UP, DOWN),
    Kind.LOHA: ("hada_",),
    Kind.LOKR: ("lokr_",),
    Kind.FULL: (DIFF,),
}


def parse_key(key: str) -> tuple[str, str]:
    """The module in the file's own name, and ComfyUI's name of the part; no part where it is of no known kind."""
    if pair := _PAIR.fullmatch(key):
        return pair[1], _HALVES[pair[2]]
    if other := _OTHER.fullmatch(key):
        return other[1], _NAMES.get(other[2], other[2])
    return key, ""


def modules_of(shapes: Mapping[str, Shape]) -> tuple[dict[str, Module], dict[str, str]]:
    """Modules by name, and the keys that are part of none with the reason."""
    modules: dict[str, Module] = {}
    left = {}
    for key, shape in shapes.items():
        name, part = parse_key(key)
        if not part:
            left[key] = "it is no part of a LoRA, LoHa or LoKr on a linear layer"
        elif part in modules.setdefault(name, Module()).keys:
            left[key] = f"{modules[name].keys[part]} says the same"
        else:
            modules[name].keys[part], modules[name].shapes[part] = key, shape
    return modules, left


def _lacking(kind: Kind, parts: Mapping[str, str]) -> Iterator[str]:
    if kind is Kind.LORA:
        yield from (words for part, words in ((DOWN, "down half"), (UP, "up half")) if part not in parts)
    if kind is Kind.LOHA:
        yield from (part for part in _HADA if part not in parts)
    if kind is Kind.LOKR:
        whole = [one for one in ("lokr_w1", "lokr_w2") if one not in parts]
        yield from (half for one in whole for half in (f"{one}_a", f"{one}_b") if half not in parts)


def _product(left: Shape, right: Shape) -> Shape:
    (rows, inner), (outer, columns) = _matrix(left), _matrix(right)
    if inner != outer:
        raise Unusable(f"its halves are of rank {inner} and {outer}")
    return rows, columns


def _same(one: Shape, other: Shape) -> Shape:
    if one != other:
        raise Unusable("its two products are of different sizes")
    return one


def _matrix(shape: Shape) -> Shape:
    """Of a convolution over one pixel too."""
    return shape[0], prod(shape[1:])
