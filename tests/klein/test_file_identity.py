"""A weights file that was replaced is another, one that was copied beside itself is known by what it holds."""

import os

import pytest
import torch
from safetensors.torch import save_file

from klein9b.klein.file_identity import file_identity


def written(path, value=0.0, name="weight"):
    save_file({name: torch.full((8,), value)}, path)
    return path


def test_the_same_file_is_the_same(tmp_path):
    path = written(tmp_path / "a.safetensors")
    assert file_identity(path) == file_identity(path)


def test_other_weights_of_the_same_shape_and_date_are_others(tmp_path):
    """As a copy that keeps dates would leave them: the entry in the file system changed all the same."""
    path = written(tmp_path / "a.safetensors")
    before, status = file_identity(path), path.stat()
    written(path, 1.0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = file_identity(path)
    assert after.modified_ns == before.modified_ns and after.header == before.header
    assert after != before


def test_another_header_is_another(tmp_path):
    one, other = written(tmp_path / "a.safetensors"), written(tmp_path / "b.safetensors", name="weighs")
    assert file_identity(one).header != file_identity(other).header


def test_only_the_header_is_read(tmp_path):
    """A header that claims more than there is costs what is there."""
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**63).to_bytes(8, "little") + b"x")
    assert file_identity(path).size == 9
    with pytest.raises(OSError):
        file_identity(tmp_path / "none.safetensors")
