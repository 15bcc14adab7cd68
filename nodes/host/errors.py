"""Errors as a person meets them.

ComfyUI names an error by the module that its class is from, and its frontend prints that before the sentence and once
more before the traceback: the path of this pack's folder, twice. What Python has built in is named by its class alone.
"""

from __future__ import annotations

from collections.abc import Iterator


def name_plainly(package: str) -> None:
    """Takes the module from the names of all error classes of a package that is imported."""
    for error in list(_below(Exception)):
        if f"{error.__module__}.".startswith(f"{package}."):
            error.__module__ = "builtins"


def _below(error: type[Exception]) -> Iterator[type[Exception]]:
    for one in error.__subclasses__():
        yield one
        yield from _below(one)
