"""Makes the pack importable as ``klein9b`` outside pytest, whatever its folder is called."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def importable() -> None:
    """Also keeps the pack root off sys.path, where it would shadow the host's nodes.py with our nodes/."""
    sys.path[:] = [str(ROOT / "tests"), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    pack = types.ModuleType("klein9b")
    pack.__path__ = [str(ROOT)]
    sys.modules.setdefault("klein9b", pack)
