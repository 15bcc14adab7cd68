"""The kinds of picture that are made and kept, and how the first bytes of a file tell them apart."""

from __future__ import annotations

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def media_type_of(data: bytes) -> str:
    """By the first bytes; empty when they are not a picture's."""
    if data.startswith(PNG_MAGIC):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""
