"""What a feature needs of ComfyUI's inner parts is looked up when it runs: a rename there costs that feature alone.

Inner parts are imported inside functions, as whole modules, and named in full where they are used. What is then missing
is told as one sentence by the node that asked for it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

TRIED = "0.29 to 0.33"
_LOOKING_UP = {"__getattr__", "__getattribute__", "__get__"}
_HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "node_helpers", "nodes", "server"}


class MissingFromHost(RuntimeError):
    """This ComfyUI lacks something a feature needs; the message says what, and which ComfyUI has it."""


@contextmanager
def needs_host() -> Iterator[None]:
    """Around whatever reaches into the host's inner parts; a decorator too.

    Raises:
        MissingFromHost: this pack asked the host, or an object of the host's, for a name it does not have. Every other
            error passes as it is.
    """
    try:
        yield
    except (AttributeError, ModuleNotFoundError) as error:
        name = _missing_name(error)
        if name is None:
            raise
        raise MissingFromHost(
            f"Klein 9B needs {name}, which ComfyUI {TRIED} have and {this_host()} lacks: update Klein 9B, or use one "
            "of those."
        ) from error


def _missing_name(error: AttributeError | ModuleNotFoundError) -> str | None:
    """What the host lacks, as a dotted name; None where the error is of another kind."""
    if not _asked_by_this_pack(error):
        return None
    if isinstance(error, ModuleNotFoundError):
        return error.name if _of_host(error.name or "") else None
    owner = _owner(error.obj)
    return None if owner is None else f"{owner}.{error.name}"


def _asked_by_this_pack(error: Exception) -> bool:
    """Whether a line of ours failed: what the host or another pack misses deeper inside is a bug of theirs."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name not in _LOOKING_UP]
    return bool(frames) and _root(frames[-1].f_globals["__name__"]) == _root(__name__)


def _owner(thing: object) -> str | None:
    """The host's module or class that should have had the name."""
    if isinstance(thing, ModuleType):
        return thing.__name__ if _of_host(thing.__name__) else None
    classes = thing.__mro__ if isinstance(thing, type) else type(thing).__mro__
    return next((f"{one.__module__}.{one.__qualname__}" for one in classes if _of_host(one.__module__)), None)


def _of_host(module: str) -> bool:
    return _root(module) in _HOST


def _root(module: str) -> str:
    return module.partition(".")[0]


def this_host() -> str:
    """Its name and version."""
    try:
        import comfyui_version

        return f"ComfyUI {comfyui_version.__version__}"
    except (ImportError, AttributeError):
        return "this ComfyUI"
