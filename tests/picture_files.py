"""Pictures as files, written with Pillow or by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def ramp(height=12, width=16):
    """A smooth picture in which every corner differs."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x / (width - 1), y / (height - 1), (x + y) / (width + height - 2))
    return np.rint(np.stack(channels, -1) * 255).astype(np.uint8)


def file_of(picture, kind, **options):
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header, rows, *extra):
    """A PNG written by hand: (width, height, depth, colour type) and unfiltered rows of bytes."""
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *extra, chunk(b"IDAT", data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def chunks(data):
    at, found = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 8])
        at += 12 + length
    return found
