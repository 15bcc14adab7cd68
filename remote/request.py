"""What is asked of the hosted model: the parameters of flux-2-klein-9b, checked before anything is sent.

Names and ranges are those of the published page. Equal requests have equal bytes, an equal digest and an
equal fingerprint, however they are spelled (5 or 5.0); the money rules rest on that.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from .addresses import may_be_public, url_of
from .errors import NOTHING_SENT, BadInput

SLUG = "flux-2-klein-9b"
SAMPLERS = ("euler", "res_2s")
IMAGE_FORMATS = ("png", "jpeg", "webp")
# The page says eleven and shows ten; 21:9 is what sibling models have as the last.
ASPECT_RATIOS = (
    "1:1", "match_input_image", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9",
)  # fmt: skip
MAX_SEED = 2**32 - 1
MAX_REFERENCES = 10
MAX_URL = 4096
MAX_HISTORY_BODY = 1 << 20


@dataclass(frozen=True, kw_only=True)
class KleinRequest:
    """One picture to make.

    Attributes:
        image_urls: references already online, https, in order; those uploaded for this job come before them.
        seed: 0 to 2**32 - 1; never left to the server, so that a request can be recognised and repeated.
        aspect_ratio: one of `ASPECT_RATIOS`; others pass, so that the server's own words are what is read.

    Raises:
        BadInput: a value that the server would refuse, or that it must not see.
    """

    prompt: str
    negative_prompt: str = "low quality, blurry, less details"
    image_urls: tuple[str, ...] = ()
    seed: int = 0
    cfg: float = 5
    sampler: str = "euler"
    steps: int = 20
    aspect_ratio: str = "1:1"
    go_fast: bool = True
    image_format: str = "png"
    quality: int = 90

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_urls", tuple(self.image_urls))
        _check_text("prompt", self.prompt)
        _check_text("negative_prompt", self.negative_prompt)
        if not self.prompt.strip():
            _refuse("The prompt is empty", "Say what the picture should show")
        _check_whole("seed", self.seed, 0, MAX_SEED)
        _check_whole("steps", self.steps, 1, 100)
        _check_whole("quality", self.quality, 10, 100)
        _check_number("cfg", self.cfg, 1, 20)
        _check_choice("sampler", self.sampler, SAMPLERS)
        _check_choice("image_format", self.image_format, IMAGE_FORMATS)
        if not isinstance(self.go_fast, bool):
            _refuse(f"go_fast should be true or false, got {self.go_fast!r}", "Correct it")
        _check_text("aspect_ratio", self.aspect_ratio)
        if not 1 <= len(self.aspect_ratio) <= 32:
            _refuse("aspect_ratio should be a ratio such as 16:9", "Choose one from the list")
        for url in self.image_urls:
            refuse_image_url(url)

    def body(self, uploaded: Sequence[str] = ()) -> dict[str, Any]:
        """The JSON object to send, in the published page's order; `uploaded` addresses come first."""
        urls = [*uploaded, *self.image_urls]
        return {
            "prompt": self.prompt,
            **({"image_urls": urls} if urls else {}),
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "cfg": _shortest(self.cfg),
            "sampler": self.sampler,
            "steps": self.steps,
            "aspect_ratio": self.aspect_ratio,
            "go_fast": self.go_fast,
            "image_format": self.image_format,
            "quality": self.quality,
        }

    def fingerprint(self, references: Sequence[str], base_url: str) -> str:
        """What makes two requests the same picture, known before anything is uploaded.

        Args:
            references: sha256 of each image as it would be uploaded, in order.
            base_url: the gateway; a job on one server is not a job on another.
        """
        return fingerprint_of(self.body(), references, base_url)

    def texts(self) -> dict[str, str]:
        """Every text a person may have typed, by its name."""
        names = ("prompt", "negative_prompt", "aspect_ratio")
        return {"image_urls": "\n".join(self.image_urls), **{name: getattr(self, name) for name in names}}

    def with_seed(self, seed: int) -> KleinRequest:
        return replace(self, seed=seed)


_FIELDS = frozenset(field.name for field in fields(KleinRequest))


def encode_body(body: dict[str, Any]) -> bytes:
    """Compact UTF-8, as the official SDK (httpx) writes it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def fingerprint_of(body: Mapping[str, Any], references: Sequence[str], base_url: str) -> str:
    """The fingerprint of a request by its body without uploads; see `KleinRequest.fingerprint`."""
    return _digest({"base_url": base_url, "slug": SLUG, "references": list(references), **body})


def read_inputs(body: object) -> dict[str, Any]:
    """The parameters in a body as the account's history shows it, without the empty ones; empty when unreadable.

    The history gives the inputs as an object, as JSON text or as the text of a Python dict, and may add keys.
    """
    if isinstance(body, str):
        body = _parse(body[: MAX_HISTORY_BODY + 1])
    if not isinstance(body, dict) or "prompt" not in body:
        return {}
    said = {name: value for name, value in body.items() if name in _FIELDS and value not in (None, [], "")}
    inputs = {name: _shortest(value) for name, value in said.items()}
    try:
        _digest(inputs)
    except (TypeError, ValueError, RecursionError):
        return {}
    return inputs


def body_digest(body: object) -> str:
    """Recognises a request in the account's history; empty when `body` cannot be read as one."""
    inputs = read_inputs(body)
    return _digest(inputs) if inputs else ""


def outline(inputs: Mapping[str, Any]) -> str:
    """A digest of everything but which images: uploads of the same pixels have other addresses each time."""
    urls = inputs.get("image_urls")
    return _digest({**inputs, "image_urls": len(urls) if isinstance(urls, (list, tuple)) else 0})


def refuse_too_many_references(counts: Mapping[str, int]) -> None:
    """Stops a request with more references than it may have, before any of them is uploaded.

    Args:
        counts: how many come from where, in order.

    Raises:
        BadInput: more than ten.
    """
    total = sum(counts.values())
    if total > MAX_REFERENCES:
        told = ", ".join(f"{count} from {name}" for name, count in counts.items() if count)
        _refuse(
            f"There are {total} reference images ({told}), and a request takes at most {MAX_REFERENCES}",
            "Connect fewer: every frame of a batch counts as one, and so does every line of image_urls",
        )


def refuse_image_url(url: str) -> None:
    """Raises BadInput unless `url` is one that Segmind could fetch and that shows nothing of this machine."""
    shown = url[:80] if isinstance(url, str) else repr(url)
    todo = "Give an https address that anyone can open, or connect the image itself"
    _check_text("image_urls", url)
    if len(url) > MAX_URL or any(c.isspace() for c in url):
        _refuse(f"{shown!r} is not one https address", todo)
    parsed = url_of(url)
    if parsed is None:
        _refuse(f"{shown!r} is not an https address", todo)
    if parsed.scheme != "https" or not parsed.host:
        _refuse(f"The image address {shown!r} should start with https://", todo)
    if parsed.userinfo:
        _refuse(f"The image address at {parsed.host} carries a user name or password", todo)
    if not may_be_public(parsed.host):
        _refuse(f"The image address {shown!r} is on this machine or a private network", todo)


def _parse(text: str) -> object:
    if len(text) > MAX_HISTORY_BODY:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _shortest(value: Any) -> Any:
    """5.0 as 5: one number, one spelling."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        _refuse(f"{name} should be text, got {type(text).__name__}", "Correct it")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(f"{name} holds half of a character (an unpaired surrogate)", "Paste the text again")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse(f"{name} should be a whole number from {low} to {high}, got {value!r}", "Correct it")


def _check_number(name: str, value: object, low: int, high: int) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:  # type: ignore[operator]
        _refuse(f"{name} should be a number from {low} to {high}, got {value!r}", "Correct it")


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        _refuse(f"{name} should be one of {', '.join(choices)}, got {value!r}", "Choose one of them")


def _refuse(what: str, todo: str) -> NoReturn:
    raise BadInput(what, NOTHING_SENT, todo)
