"""ComfyUI's own modules inside the test process, on CPU."""

import sys
from pathlib import Path

from .launch import cope_with_cpu_wheels


def enter(checkout: Path) -> None:
    """Makes ``import comfy`` and ``klein9b.nodes`` work. Idempotent."""
    if str(checkout) in sys.path:
        return
    cope_with_cpu_wheels()
    sys.path.insert(0, str(checkout))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
