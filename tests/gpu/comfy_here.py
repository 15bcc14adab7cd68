"""ComfyUI inside this process, on the card where there is one."""

from __future__ import annotations

import importlib.util
import sys
import types

from pack import ROOT

from host.checkout import NoHost, WrongPath, find_checkout
from host.inprocess import enter

from .context import first_line


def entered(*, dry: bool) -> str | None:
    """Makes `import comfy` work; says why it does not, or None."""
    try:
        checkout = find_checkout()
    except (NoHost, WrongPath) as reason:
        return str(reason)
    _without_httpx()
    try:
        enter(checkout)
        import comfy.cli_args

        comfy.cli_args.args.cpu = dry
        import comfy.ldm.flux.model
        import comfy.samplers
        import comfy.sd
    except Exception as error:
        return f"ComfyUI in {checkout} does not import here ({first_line(error)}). Install its requirements.txt"
    return None


def _without_httpx() -> None:
    """What samples needs no network; the package that lists every node does."""
    if importlib.util.find_spec("httpx") is None and "klein9b.nodes" not in sys.modules:
        nodes = types.ModuleType("klein9b.nodes")
        nodes.__path__ = [str(ROOT / "nodes")]
        sys.modules["klein9b.nodes"] = nodes
