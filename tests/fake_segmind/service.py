"""What the service knows: settings, jobs, behaviours to come and the files it hosts."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import picture
from .jobs import Behaviour, Clock, Job, JobBook
from .settings import Settings

ASPECT_RATIOS = ("match_input_image", "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
SAMPLERS = ("euler", "res_2s")
IMAGE_FORMATS = ("png", "jpeg", "webp")
RANGES = {"cfg": (1, 20), "steps": (1, 100), "quality": (10, 100)}
MODERATED_WORD = "forbidden"


class Service:
    """The state behind all hosts. ``urls`` is filled when the ports are known."""

    def __init__(self, settings: Settings, behaviour: Behaviour) -> None:
        self.key = "SG_" + secrets.token_hex(8)
        self.settings = settings
        self.behaviour = behaviour
        self.coming: deque[Behaviour] = deque()
        self.clock = Clock()
        self.book = JobBook(self.clock, settings)
        self.urls: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fake_segmind_")
        self.folder = Path(self._folder.name)

    def close(self) -> None:
        self._folder.cleanup()

    def next_behaviour(self) -> Behaviour:
        """How the next accepted job will go."""
        return self.coming[0] if self.coming else self.behaviour

    def accept(self, slug: str, body: Mapping[str, Any], via: str = "v2") -> Job:
        """Make a job, applying the next scripted behaviour and the faults its inputs deserve."""
        behaviour = self.coming.popleft() if self.coming else self.behaviour
        error = behaviour.error or self.input_error(body)
        return self.book.submit(slug, body, replace(behaviour, error=error), via)

    def input_error(self, body: Mapping[str, Any]) -> str | None:
        """Why the worker would fail on these inputs."""
        prompt = body.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            return "Prompt is Mandatory and must be string"
        if MODERATED_WORD in prompt.lower():
            return Behaviour.moderated().error
        return bad_value(body) or self._reference_error(body.get("image_urls") or [])

    def _reference_error(self, urls: object) -> str | None:
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            return "image_urls must be a list of strings"
        for url in urls:
            if url.startswith("data:") and not self.settings.accepts_data_urls:
                return "image_urls must be http(s) URLs"
            data = self.fetch(url)
            if self._hosted(url) and (data is None or not picture.readable(data)):
                return f"Could not load the image at {url}"
        return None

    def _hosted(self, url: str) -> bool:
        return url.startswith(("data:", self.urls["image"] + "/"))

    def fetch(self, url: str) -> bytes | None:
        """Bytes of a reference this fake holds itself. Other hosts are never contacted."""
        if url.startswith("data:"):
            return decode_data_url(url)
        if not self._hosted(url):
            return None
        kind, _, name = urlsplit(url).path.strip("/").partition("/")
        if kind == "assets":
            return self.asset(name)
        found = self.book.file(name)
        return self.render(*found) if found else None

    def store(self, data_url: str) -> str | None:
        """Keep an uploaded file; returns its public URL, None when it is not a data URL."""
        data = decode_data_url(data_url)
        if data is None:
            return None
        kind = data_url[5:].split(";")[0].rpartition("/")[2] or "bin"
        name = f"{secrets.token_hex(4)}-{hashlib.sha256(data).hexdigest()[:32]}.{kind}"
        (self.folder / name).write_bytes(data)
        return f"{self.urls['image']}/assets/{name}"

    def asset(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.parent == self.folder and path.is_file() else None

    def render(self, job: Job, index: int = 0) -> bytes:
        """The file bytes of one output; the same job always gives the same bytes."""
        body = job.body
        references = tuple(self.fetch(url) for url in body.get("image_urls") or [])
        ratio = str(body.get("aspect_ratio", "1:1"))
        sketch = picture.Sketch(str(body["prompt"]), job.seed, references, ratio, self.settings.pixels, index)
        return picture.encode(picture.draw(sketch), job.image_format, int(body.get("quality", 90)))

    def output_urls(self, job: Job) -> list[str]:
        return [f"{self.urls['image']}/generations/{name}" for name in job.file_names]


def bad_enum(body: Mapping[str, Any]) -> str | None:
    """The first parameter outside its declared set."""
    sets = {"aspect_ratio": ASPECT_RATIOS, "sampler": SAMPLERS, "image_format": IMAGE_FORMATS}
    for name, allowed in sets.items():
        if name in body and body[name] not in allowed:
            return f"Invalid value for parameter '{name}': {body[name]!r}. Allowed: {', '.join(allowed)}"
    return None


def bad_value(body: Mapping[str, Any]) -> str | None:
    """The first parameter the worker would choke on."""
    for name, (low, high) in RANGES.items():
        value = body.get(name, low)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            return f"Validation error: {name} must be between {low} and {high}"
    seed = body.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        return "Validation error: seed must be an integer"
    return bad_enum(body)


def decode_data_url(url: str) -> bytes | None:
    """The bytes of a base64 data URL, None when it is not one."""
    head, comma, payload = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        return None
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error:
        return None
