"""Lets the pack be imported as ``klein9b`` whatever its folder is called, with or without ComfyUI."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import interpreter
from pack import ROOT, importable
from sharing import Sharing
from summary import Summary

from host.checkout import NoHost, WrongPath, find_checkout


class PackRootIsNotATestPackage:
    """Stops pytest from importing the pack's __init__.py as a top-level module."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config):
    config.pluginmanager.register(PackRootIsNotATestPackage())
    config.pluginmanager.register(Summary())
    config.pluginmanager.register(Sharing())
    interpreter.prefer()
    importable()
    try:
        find_checkout()
    except WrongPath as mistake:
        raise pytest.UsageError(mistake) from None
    except NoHost:
        pass


@pytest.fixture(scope="session")
def checkout():
    """A ComfyUI's folder."""
    try:
        return find_checkout()
    except NoHost as reason:
        pytest.skip(str(reason))
