"""Whether what our blocks stand in for, or count on, is the host's own: packs put functions of theirs in its place."""

from __future__ import annotations

import sys
from typing import Any


def is_as_written(owner: type, name: str, thing: Any = None) -> bool:
    """Whether a method of the host's is the one in its file.

    Args:
        owner: the host's class.
        thing: one of that class or of one derived from it, which may have been given a method of its own.
    """
    found = getattr(owner if thing is None else type(thing), name, None)
    given = thing is not None and name in vars(thing)
    return not given and getattr(found, "__globals__", None) is vars(sys.modules[owner.__module__])
