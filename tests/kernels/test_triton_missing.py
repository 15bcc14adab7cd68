"""Without Triton its twins cannot be imported, and nothing else needs it."""

import importlib
import sys
from pathlib import Path

import pytest

from host.checkout import PACK

FILES = sorted(path.stem for path in (PACK / "kernels" / "triton").glob("*.py") if path.stem != "__init__")


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("klein9b.kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("file", FILES)
def test_what_is_missing_is_named(without_triton, file):
    with pytest.raises(
        ImportError, match="Triton kernels need the package triton, which is not installed: pip install"
    ):
        importlib.import_module(f"klein9b.kernels.triton.{file}")


def test_every_twin_is_of_an_eager_op():
    assert len(FILES) > 5
    for path in (PACK / "kernels" / "triton").glob("*.py"):
        shared = path.stem in ("__init__", "launch", "rows", "rows_int8", "rows_fp8")
        assert shared or Path(PACK / "kernels" / "eager" / path.name).exists()
