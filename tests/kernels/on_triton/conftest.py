"""What these files want of a machine, and memory in which whatever an op leaves unwritten is found."""

from importlib.util import find_spec

import interpreter
import pytest
import torch


class Skipped(pytest.Item):
    """Stands for the tests of a file that cannot even be imported here, so that they are counted as skipped."""

    def __init__(self, *, why, **given):
        super().__init__(**given)
        self.why = why

    def runtest(self):
        pytest.skip(self.why)


class SkippedFile(pytest.File):
    def __init__(self, *, why, **given):
        super().__init__(**given)
        self.why = why

    def collect(self):
        yield Skipped.from_parent(self, name="every test", why=self.why)


def why_not(file):
    if find_spec("triton") is None:
        return "no Triton: pip install triton, on Linux"
    if not file.endswith("_compile.py") and not interpreter.chosen() and not torch.cuda.is_available():
        return "no GPU: TRITON_INTERPRET=1 runs Triton's kernels without one"
    return None


def pytest_pycollect_makemodule(module_path, parent):
    why = why_not(module_path.name)
    return SkippedFile.from_parent(parent, path=module_path, why=why) if why else None


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that an op asks for is full of numbers that it cannot make."""
    empty = torch.empty

    def filled(*shape, **options):
        made = empty(*shape, **options)
        return made.fill_(float("nan") if made.is_floating_point() else -128)

    monkeypatch.setattr(torch, "empty", filled)
