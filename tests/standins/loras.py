"""LoRA files as trainers write them, and the difference that each makes to Klein's matrices.

The names follow the trainers' own writing, not our reading: a BFL module or a diffusers module with their prefix, dots
or underscores, and suffixes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .draw import Draw

RANK = 4


def flat(module: str) -> str:
    return module.replace(".", "_")


def half_flat(module: str) -> str:
    """musubi's converted files: blocks with dots, what is in them with underscores."""
    parts = module.split(".")
    return ".".join([*parts[:2], "_".join(parts[2:])]) if len(parts) > 2 and parts[1].isdigit() else module


@dataclass(frozen=True)
class Dialect:
    """Args: named: module -> prefix of its keys. pair: suffixes of down and up. alpha: whether it writes one."""

    named: Callable[[str], str]
    pair: tuple[str, str] = (".lora_A.weight", ".lora_B.weight")
    alpha: bool = False

    def keys(self, module: str, down: Tensor, up: Tensor, alpha: float) -> dict[str, Tensor]:
        name = self.named(module)
        pair = {name + self.pair[0]: down, name + self.pair[1]: up}
        return pair | ({f"{name}.alpha": torch.tensor(alpha)} if self.alpha else {})


KOHYA = (".lora_down.weight", ".lora_up.weight")
OF_BFL = {
    "ai-toolkit": Dialect(lambda m: f"diffusion_model.{m}"),
    "bfl": Dialect(lambda m: m),
    "peft": Dialect(lambda m: f"base_model.model.{m}"),
    "kohya": Dialect(lambda m: f"lora_unet_{flat(m)}", KOHYA, alpha=True),
    "musubi, converted": Dialect(lambda m: f"diffusion_model.{half_flat(m)}"),
    "bfl with alpha": Dialect(lambda m: f"diffusion_model.{m}", KOHYA, alpha=True),
}
OF_DIFFUSERS = {
    "diffusers": Dialect(lambda m: f"transformer.{m}"),
    "diffusers, old": Dialect(lambda m: f"transformer.{m}", (".lora.down.weight", ".lora.up.weight")),
    "peft of diffusers": Dialect(lambda m: f"base_model.model.{m}"),
    "peft with an adapter's name": Dialect(lambda m: m, (".lora_A.default.weight", ".lora_B.default.weight")),
    "ai-toolkit of diffusers": Dialect(lambda m: f"diffusion_model.{m}"),
    "onetrainer": Dialect(lambda m: f"transformer.{m}", KOHYA, alpha=True),
    "onetrainer, flat": Dialect(lambda m: f"lora_transformer_{flat(m)}", KOHYA, alpha=True),
    "simpletuner": Dialect(lambda m: f"lycoris_{flat(m)}", KOHYA, alpha=True),
}


def bfl_linears(weights: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Every matrix of a stand-in by its module's name."""
    return {key.removesuffix(".weight"): tuple(one.shape) for key, one in weights.items() if one.ndim == 2}


def diffusers_linears(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Every linear of diffusers' transformer."""
    return {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def lora(
    dialect: Dialect, linears: dict[str, tuple[int, int]], *, rank: int = RANK, alpha: float = 3.0, seed: int = 5
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file for all these modules, and each module's difference in float64."""
    draw, file, deltas = Draw(seed), {}, {}
    for module, (rows, columns) in linears.items():
        down, up = draw.matrix(rank, columns), draw.matrix(rows, rank)
        file |= dialect.keys(module, down, up, alpha)
        factor = alpha / rank if dialect.alpha else 1.0
        deltas[module] = factor * up.double() @ down.double()
    return file, deltas


def lokr(rows: int, columns: int, *, seed: int = 5, outer: tuple[int, int] = (4, 2), rank: int | None = None):
    """Parts of a LoKr by name, its second factor as a product where a rank is given; and its difference."""
    draw = Draw(seed)
    inner = rows // outer[0], columns // outer[1]
    w1 = draw.matrix(*outer)
    if rank is None:
        w2 = draw.matrix(*inner)
        return {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1.0)}, torch.kron(w1.double(), w2.double())
    a, b = draw.matrix(inner[0], rank), draw.matrix(rank, inner[1])
    parts = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(3.0)}
    return parts, 3.0 / rank * torch.kron(w1.double(), a.double() @ b.double())


def loha(rows: int, columns: int, *, seed: int = 5, rank: int = RANK, alpha: float = 3.0):
    """Parts of a LoHa by name, and its difference."""
    draw = Draw(seed)
    a1, b1, a2, b2 = (draw.matrix(*size) for size in [(rows, rank), (rank, columns)] * 2)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(alpha)}
    return parts, alpha / rank * (a1.double() @ b1.double()) * (a2.double() @ b2.double())
