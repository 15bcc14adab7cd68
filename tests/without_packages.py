"""Runs pytest where some packages cannot be imported, as on a machine that never installed them.

Usage: without_packages.py NAME[,NAME ...] [pytest arguments ...]
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

import pytest


class Absent:
    """Answers for the named packages before anything else can find them."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def main() -> int:
    sys.meta_path.insert(0, Absent(set(sys.argv[1].split(","))))
    return pytest.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
