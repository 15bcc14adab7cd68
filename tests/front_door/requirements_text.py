"""What requirements files ask for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def names(found: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(one.name) for one in found}


def closure(found: Iterable[Requirement]) -> dict[str, str]:
    """Installed versions by name of what is asked for and of everything that needs in turn."""
    versions: dict[str, str] = {}
    waiting = sorted(names(found))
    while waiting:
        name = waiting.pop()
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        versions[name] = installed.version
        needed = [Requirement(text) for text in installed.requires or []]
        wanted = names(one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""}))
        waiting += sorted(wanted - versions.keys() - set(waiting))
    return versions
