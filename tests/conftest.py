"""Lets the pack be imported as ``klein9b`` whatever its folder is called, with or without ComfyUI."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pack import ROOT, importable


class PackRootIsNotATestPackage:
    """Stops pytest from importing the pack's __init__.py as a top-level module."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config):
    config.pluginmanager.register(PackRootIsNotATestPackage())
    importable()
