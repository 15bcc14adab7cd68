"""Pictures on their way to Segmind and back: arrays in, bytes out; paid bytes in, arrays out.

Arrays are ComfyUI's: float32 in [0, 1], channels last, sRGB; a mask is 1 where the picture is transparent.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps

from . import explain
from .errors import NOTHING_SENT, BadInput, DownloadRefused
from .media_types import PNG_MAGIC, media_type_of

MIB = 1 << 20
UPLOAD_PIXELS = 4 * MIB  # 2048 x 2048, the most that Klein works at
UPLOAD_PNG_BYTES = 8 * MIB
UPLOAD_JPEG_QUALITY = 95
REFUSED_PIXELS = 100_000_000
RESULT_BYTES = 64 * MIB
RESULT_PIXELS = 32_000_000
LONGEST_SIDE = 16384

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A picture ready to upload.

    Attributes:
        data: the file: PNG, or JPEG where PNG would be too big.
        width, height: as sent, in pixels.
        sha256: of the pixels as sent and their size, so the same picture has it whatever wrote the file.
        note: what was changed on the way, for the person; empty when nothing was.
    """

    data: bytes
    media_type: str
    width: int
    height: int
    sha256: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A result as the graph wants it.

    Attributes:
        image: [height, width, 3], float32, upright, sRGB.
        mask: [height, width], float32, 1 - alpha.
        note: what the file held that the arrays do not; empty when nothing.
    """

    image: Floats
    mask: Floats
    width: int
    height: int
    media_type: str
    note: str = ""


def encode(image: npt.NDArray[Any]) -> Encoded:
    """The file to upload for one picture. Nothing but pixels leaves: no EXIF, no text, no workflow.

    Args:
        image: [height, width, 3 or 4], or that in a batch of one; floats, clipped to [0, 1].

    Raises:
        BadInput: another shape or type, no pixels, more than 100 megapixels, NaN or infinity.
    """
    pixels = _checked(image)
    rgb, blended = _on_white(pixels)
    sent = _within_limits(Image.fromarray(np.rint(rgb * 255).astype(np.uint8)))
    data, media_type = _smallest_file(sent)
    height, width = rgb.shape[:2]
    notes = [
        "transparent parts were put on white" if blended else "",
        f"scaled from {width}x{height} to {sent.width}x{sent.height}" if sent.size != (width, height) else "",
        f"sent as JPEG {UPLOAD_JPEG_QUALITY}, as PNG it is over 8 MiB" if media_type == "image/jpeg" else "",
    ]
    digest = hashlib.sha256(b"RGB %dx%d\0" % sent.size + sent.tobytes()).hexdigest()
    return Encoded(
        data=data,
        media_type=media_type,
        width=sent.width,
        height=sent.height,
        sha256=digest,
        note=_joined(notes),
    )


def data_url(encoded: Encoded) -> str:
    """The file as a data: URL, the form in which Segmind's upload takes it."""
    return f"data:{encoded.media_type};base64,{base64.b64encode(encoded.data).decode('ascii')}"


def decode(data: bytes) -> Decoded:
    """The arrays of a downloaded picture: first frame, turned upright, in sRGB.

    Size and completeness are checked before a pixel is decoded, and not left to Pillow: another node pack may
    have set its process-wide LOAD_TRUNCATED_IMAGES, under which a cut file decodes to grey without a word.

    Raises:
        DownloadRefused: not PNG, JPEG or WebP; over 64 MiB, 32 megapixels or 16384 pixels a side; or, marked
            retryable, cut short or damaged.
    """
    media_type = _accepted_type(data)
    _require_whole(data, media_type)
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[media_type]]) as picture:
            _require_size(picture)
            return _read(picture, media_type, data)
    except DownloadRefused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        _refuse("The picture has more than 32 megapixels")
    except Exception as error:  # what a hostile file makes Pillow raise has no common base
        _refuse_damaged(media_type, f"{type(error).__name__}: {error}")


def _accepted_type(data: bytes) -> str:
    """The media type by the file's first bytes.

    Raises:
        DownloadRefused: they are not those of PNG, JPEG or WebP, or the file is over 64 MiB.
    """
    if len(data) > RESULT_BYTES:
        _refuse(f"The picture's file has {len(data) / MIB:.0f} MiB, more than the 64 MiB accepted")
    found = media_type_of(data)
    if found:
        return found
    if len(data) < 12:
        _refuse_damaged("picture", f"only {len(data)} bytes arrived")
    _refuse("The downloaded file is not a PNG, JPEG or WebP picture")


def _checked(image: npt.NDArray[Any]) -> Floats:
    """[height, width, channels] in [0, 1]."""
    shape = "x".join(map(str, image.shape))
    single = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
    if single.ndim != 3 or single.shape[-1] not in (3, 4) or not np.issubdtype(single.dtype, np.floating):
        _bad(f"An image must be height x width x 3 or 4 floats, and this one is {shape} {image.dtype}")
    count = single.shape[0] * single.shape[1]
    if count == 0:
        _bad(f"An image has no pixels: its shape is {shape}")
    if count > REFUSED_PIXELS:
        _bad(f"An image has {count / 1e6:.0f} megapixels, more than the 100 accepted", "Scale it down first")
    if not np.isfinite(single).all():
        _bad("An image holds NaN or infinity", "Look at the node that made it: a VAE in fp16 often does this")
    return np.clip(single.astype(np.float32), 0.0, 1.0)


def _on_white(pixels: Floats) -> tuple[Floats, bool]:
    """RGB over white, and whether anything was transparent."""
    if pixels.shape[-1] == 3 or pixels[..., 3].min() == 1.0:
        return pixels[..., :3], False
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + (1.0 - alpha), True


def _within_limits(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    scale = min(math.sqrt(UPLOAD_PIXELS / (width * height)), LONGEST_SIDE / max(width, height))
    if scale >= 1.0:
        return picture
    size = (max(1, math.floor(width * scale)), max(1, math.floor(height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _smallest_file(picture: Image.Image) -> tuple[bytes, str]:
    """The lossless file, or where that is too big to upload a JPEG with full colour resolution."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    if file.tell() <= UPLOAD_PNG_BYTES:
        return file.getvalue(), "image/png"
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=UPLOAD_JPEG_QUALITY, subsampling=0)
    return file.getvalue(), "image/jpeg"


def _require_whole(data: bytes, media_type: str) -> None:
    whole = {"image/png": _png_is_whole, "image/jpeg": _jpeg_is_whole, "image/webp": _webp_is_whole}
    if not whole[media_type](data):
        _refuse_damaged(media_type, f"its {len(data)} bytes are cut short or changed")


def _png_is_whole(data: bytes) -> bool:
    """Every chunk up to IEND is there and matches its checksum."""
    view, at = memoryview(data), len(PNG_MAGIC)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or struct.unpack_from(">I", data, end)[0] != zlib.crc32(view[at + 4 : end]):
            return False
        if view[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _jpeg_is_whole(data: bytes) -> bool:
    """The last scan is followed by an end marker, which cannot occur inside a scan."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") >= 0


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= 8 + int(struct.unpack_from("<I", data, 4)[0])


def _require_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > RESULT_PIXELS or max(width, height) > LONGEST_SIDE:
        _refuse(f"The picture is {width}x{height}, more than 32 megapixels or {LONGEST_SIDE} pixels a side")


def _read(picture: Image.Image, media_type: str, data: bytes) -> Decoded:
    frames = getattr(picture, "n_frames", 1)
    picture.load()
    upright, turned = _upright(_without_palette(picture))
    image, coloured = _srgb(upright)
    deep = media_type == "image/png" and data[24] == 16 and not _is_gray16(picture)
    notes = [
        f"only the first of its {frames} frames was read" if frames > 1 else "",
        turned,
        coloured,
        "its 16 bits a colour were read as 8" if deep else "",
    ]
    height, width = image.shape[:2]
    return Decoded(
        image=image,
        mask=1.0 - _alpha(upright),
        width=width,
        height=height,
        media_type=media_type,
        note=_joined(notes),
    )


def _without_palette(picture: Image.Image) -> Image.Image:
    if picture.mode not in ("P", "PA"):
        return picture
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _upright(picture: Image.Image) -> tuple[Image.Image, str]:
    """Turned as its EXIF says; a broken EXIF must not cost a paid picture."""
    try:
        return ImageOps.exif_transpose(picture), ""
    except Exception:
        return picture, "its EXIF could not be read, so it may not be upright"


def _srgb(picture: Image.Image) -> tuple[Floats, str]:
    """[height, width, 3] through the embedded profile, and a remark where that could not be followed."""
    profile = picture.info.get("icc_profile")
    if _is_gray16(picture):
        gray = np.asarray(picture).astype(np.float32) / 65535.0
        remark = "its colour profile was not applied" if profile else ""
        return np.repeat(np.clip(gray, 0.0, 1.0)[..., None], 3, axis=-1), remark
    if not profile:
        return _unit(picture.convert("RGB")), ""
    try:
        return _unit(_through_profile(picture, profile)), ""
    except Exception:  # lcms and Pillow report a broken profile in several ways
        return _unit(picture.convert("RGB")), "its colour profile could not be read, and sRGB was assumed"


def _through_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    modes = {"GRAY": ("1", "L", "LA"), "CMYK": ("CMYK",)}.get(space, ("L", "LA", "RGB", "RGBA"))
    if picture.mode not in modes:
        raise ValueError(f"a {space} profile on a {picture.mode} picture")
    plain = picture.convert({"GRAY": "L", "CMYK": "CMYK"}.get(space, "RGB"))
    converted = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if converted is None:
        raise ValueError("the profile was not applied")
    return converted


def _alpha(picture: Image.Image) -> Floats:
    """[height, width], 1 where opaque."""
    if not picture.has_transparency_data:
        return np.ones((picture.height, picture.width), np.float32)
    if _is_gray16(picture):
        return (np.asarray(picture) != picture.info["transparency"]).astype(np.float32)
    return _unit(picture.convert("RGBA").getchannel("A"))


def _is_gray16(picture: Image.Image) -> bool:
    """Pillow before 10 calls it I, later I;16."""
    return picture.mode.startswith("I")


def _unit(picture: Image.Image) -> Floats:
    return np.asarray(picture, np.float32) / np.float32(255.0)


def _joined(notes: list[str]) -> str:
    return "; ".join(note for note in notes if note)


def _bad(what: str, todo: str = "Connect an ordinary IMAGE") -> NoReturn:
    raise BadInput(what, NOTHING_SENT, todo)


def _refuse(what: str) -> NoReturn:
    raise explain.refused_picture(what)


def _refuse_damaged(media_type: str, flaw: str) -> NoReturn:
    raise explain.damaged_picture(FORMATS.get(media_type, media_type), flaw) from None
