"""What a file is, by its first bytes alone."""

import io

import pytest
from PIL import Image

from klein9b.remote.media_types import EXTENSIONS, media_type_of


@pytest.mark.parametrize("media_type", EXTENSIONS)
def test_every_kind_that_is_kept_is_told_by_its_first_bytes(media_type):
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, media_type.partition("/")[2])
    assert media_type_of(file.getvalue()) == media_type
    assert media_type_of(file.getvalue()[:12]) == media_type


@pytest.mark.parametrize("data", [b"", b"RIFF\0\0\0\0WAVE", b"GIF89a", b"<html>", b"\x89PNG\n"])
def test_anything_else_has_none(data):
    assert media_type_of(data) == ""
