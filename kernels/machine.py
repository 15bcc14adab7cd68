"""What an implementation of an op may depend on: the card, the dtype, and the libraries beside torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module, metadata

import torch

Version = tuple[int, ...]
_DISTRIBUTION = {"triton": ("triton", "triton-windows"), "comfy_kitchen": ("comfy-kitchen",)}


class Unfit(Exception):
    """An implementation cannot serve here; its text says why, as a sentence that lacks its first word."""


@dataclass(frozen=True)
class Machine:
    """Where ops are to run.

    Attributes:
        kind: "cuda" for NVIDIA's cards alone, "hip" for AMD's, else torch's name for the type of device.
        capability: of an NVIDIA card, such as (8, 9).
    """

    device: torch.device
    dtype: torch.dtype
    kind: str
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class Library:
    """A package that may be there.

    Attributes:
        version: None where it is not known.
        missing: why it cannot be imported, as in `Unfit`, or None.
    """

    name: str
    version: str | None
    missing: str | None

    @property
    def numbers(self) -> Version | None:
        """The first three numbers of the version."""
        return None if self.version is None else tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])

    def __str__(self) -> str:
        return f"no {self.name}" if self.missing else f"{self.name} {self.version or 'of unknown version'}"


def machine_of(device: torch.device, dtype: torch.dtype) -> Machine:
    """The machine behind a device of torch."""
    kind = "hip" if device.type == "cuda" and torch.version.hip else device.type
    return Machine(device, dtype, kind, torch.cuda.get_device_capability(device) if kind == "cuda" else None)


def library(name: str) -> Library:
    """Imports a package to see whether it is there; a broken one may raise anything."""
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return Library(name, None, "is not installed")
        return Library(name, None, f"does not import: {first_line(error)}")
    except Exception as error:
        return Library(name, None, f"does not import: {first_line(error)}")
    return Library(name, getattr(module, "__version__", None) or _distributed(name), None)


def first_line(error: BaseException) -> str:
    """An error in one line: compilers answer with pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def dtype_name(dtype: torch.dtype) -> str:
    """As "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def sm_name(capability: tuple[int, int]) -> str:
    """As "sm_89"."""
    return "sm_{}{}".format(*capability)


def _distributed(name: str) -> str | None:
    for distribution in _DISTRIBUTION.get(name, ()):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None
