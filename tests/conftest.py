"""Lets the pack be imported as ``klein9b`` whatever its folder is called, with or without ComfyUI."""

import os
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class PackRootIsNotATestPackage:
    """Stops pytest from importing the pack's __init__.py as a top-level module."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def _without_pack_root(paths):
    """The pack root on sys.path would shadow the host's nodes.py with our nodes/."""
    return [p for p in paths if Path(p or os.curdir).resolve() != ROOT]


def pytest_configure(config):
    config.pluginmanager.register(PackRootIsNotATestPackage())
    sys.path[:] = [str(ROOT / "tests"), *_without_pack_root(sys.path)]
    pack = types.ModuleType("klein9b")
    pack.__path__ = [str(ROOT)]
    sys.modules["klein9b"] = pack
