"""What the real service leaves undocumented, or what depends on the account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SLUG = "flux-2-klein-9b"


@dataclass
class Settings:
    """May be changed while the fake runs; every answer reads the current value.

    validation: "declared" rejects unknown enum values with 406 and lets other bad values FAIL later;
        "lazy" accepts everything and FAILs later; "strict" answers 422 with detail[].
    history_body: how history shows the inputs: "python" (text of a dict), "json" (text) or "object".
    reset_format: iso, rfc1123, epoch or epoch_ms. rpm None means no limiter. limit_gets: whether GETs count.
    upload_key: file_urls, urls or url. accepts_data_urls: whether image_urls may hold data: URIs.
    credits and spend_cap are USD. pixels is the area of a picture.
    """

    rpm: int | None = None
    reset_format: str = "iso"
    limit_gets: bool = True
    validation: str = "declared"
    history_lag_seconds: float = 0.0
    history_body: str = "python"
    history_extra: Mapping[str, Any] = field(default_factory=dict)
    upload_key: str = "file_urls"
    max_upload_bytes: int = 50 * 2**20
    accepts_data_urls: bool = True
    credits: float = 10.0
    spend_cap: float | None = None
    slugs: tuple[str, ...] = (SLUG,)
    retired: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    pixels: int = 512 * 512
