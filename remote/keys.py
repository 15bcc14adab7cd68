"""The API key: where it is found, how it stays unseen, and the only hosts it may go to."""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .addresses import is_loopback, url_of
from .errors import NOTHING_SENT, BadInput, MissingKey
from .redaction import hide, looks_like_key

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "SEGMIND_API_KEY"
KEY_FILE = "segmind.key"
HOST_VARIABLES = {
    "api": "SEGMIND_BASE_URL",
    "storage": "SEGMIND_STORAGE_URL",
    "account": "SEGMIND_ACCOUNT_URL",
}

_TOKEN = re.compile(r"[0-9A-Za-z._~+/-]{8,512}=*")  # token68 of RFC 9110: all a header can carry unquoted
_MOST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Base URLs, without a trailing slash, of the three services that may see the key.

    Raises:
        BadInput: a URL is not https (http is for loopback only), or carries userinfo, a query or a fragment.
    """

    api: str = "https://api.segmind.com"
    storage: str = "https://workflows-api.segmind.com"
    account: str = "https://api.spotprod.segmind.com"

    def __post_init__(self) -> None:
        for name, variable in HOST_VARIABLES.items():
            object.__setattr__(self, name, _base_url(getattr(self, name), variable))

    @classmethod
    def from_environment(cls) -> Hosts:
        """The published hosts, each replaced by its environment variable where that is set."""
        found = {name: os.environ.get(variable, "").strip() for name, variable in HOST_VARIABLES.items()}
        return cls(**{name: url for name, url in found.items() if url})

    def origins(self) -> frozenset[tuple[str, bytes, int]]:
        return frozenset(_origin(url) for url in map(url_of, (self.api, self.storage, self.account)) if url)


class Key:
    """An API key that no repr, str, format, copy or pickle shows.

    Not a dataclass on purpose: `dataclasses.asdict` of whatever holds it would spell it out.
    """

    __slots__ = ("_secret",)
    _secret: str

    def __init__(self, secret: str) -> None:
        if not _TOKEN.fullmatch(secret):
            _refuse_odd("This text")
        hide(secret)
        object.__setattr__(self, "_secret", secret)

    def header_for(self, url: str, hosts: Hosts) -> dict[str, str]:
        """The header that authenticates a request to `url`.

        Raises:
            BadInput: `url` is not at one of the three origins in `hosts`.
        """
        target = url_of(url)
        if target is None or target.userinfo or _origin(target) not in hosts.origins():
            host = target.host if target else ""
            raise BadInput(
                f"The API key was about to go to {host or 'no host'}, which is not one of Segmind's",
                NOTHING_SENT,
                f"If that host is yours, name it in {', '.join(HOST_VARIABLES.values())}",
            )
        return {"x-api-key": self._secret}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret.encode(), other._secret.encode())

    def __hash__(self) -> int:
        return hash(self._secret)

    def __repr__(self) -> str:
        return "Key(set)"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Key does not change")

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Key is not pickled")


def load_key(directory: Path) -> Key:
    """The key from SEGMIND_API_KEY, else from the file `segmind.key` in `directory`.

    Args:
        directory: a folder that the host does not serve over HTTP.

    Raises:
        MissingKey: there is none, it cannot be a key, or others on this machine can read its file.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    source = f"The environment variable {KEY_VARIABLE}"
    if not given:
        path = directory / KEY_FILE
        given, source = _read_private(path), f"The file {path}"
        if not given:
            _refuse_missing(path)
    if not _TOKEN.fullmatch(given):
        _refuse_odd(source)
    return Key(given)


def refuse_secrets(values: Mapping[str, str]) -> None:
    """Stops a run whose inputs hold a key.

    Args:
        values: text inputs by name.

    Raises:
        BadInput: one of them holds something that looks like a key.
    """
    for name, text in values.items():
        if looks_like_key(text):
            raise BadInput(
                f"The input {name} holds what looks like a Segmind API key, and inputs are saved in the"
                " workflow, in every PNG and in the history",
                NOTHING_SENT,
                f"Take it out of {name}, set {KEY_VARIABLE} instead, and if this workflow has been saved or"
                " shared replace the key at Segmind",
            )


def _read_private(path: Path) -> str:
    """The stripped text of a file only its owner can read; empty when there is no such file."""
    try:
        with path.open("rb") as file:
            if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                _refuse_readable(path)
            content = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MissingKey(
            f"The key file {path} cannot be read: {error.strerror}",
            NOTHING_SENT,
            f"Make it a file that you can read, or set {KEY_VARIABLE}",
        ) from None
    return content.decode("utf-8-sig", errors="replace").strip()


def _refuse_readable(path: Path) -> NoReturn:
    raise MissingKey(
        f"The key file {path} can be read by other users of this machine",
        NOTHING_SENT,
        f'Run: chmod 600 "{path}"',
    )


def _refuse_missing(path: Path) -> NoReturn:
    raise MissingKey(
        f"No Segmind API key: the variable {KEY_VARIABLE} is not set and the file {path} does not hold one",
        NOTHING_SENT,
        f"Set {KEY_VARIABLE} before starting ComfyUI, or save the key as the only line of that file and"
        f' close it to others (chmod 600 "{path}")',
    )


def _refuse_odd(source: str) -> NoReturn:
    """Never echoes, and never measures, what it refuses."""
    raise MissingKey(
        f"{source} does not hold an API key: a key is one word of at least 8 plain ASCII letters and digits",
        NOTHING_SENT,
        "Copy the key from Segmind's console again, with no quotes, spaces or other text around it",
    )


def _origin(url: httpx.URL) -> tuple[str, bytes, int]:
    return url.scheme, url.raw_host, url.port or {"https": 443, "http": 80}.get(url.scheme, 0)


def _base_url(text: str, variable: str) -> str:
    """`text` without its trailing slash, once it is known to be a base URL the key may go to."""
    url = url_of(text)
    if url is None or not url.host or url.userinfo or re.search(r"[?#\s]", text):
        _refuse_base(variable, "is not a plain base URL: a scheme, a host, and no user, query or fragment")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        _refuse_base(variable, "must start with https:// (http:// is for loopback only)")
    return text.rstrip("/")


def _refuse_base(variable: str, flaw: str) -> NoReturn:
    raise BadInput(f"{variable} {flaw}", NOTHING_SENT, f"Correct or unset {variable} and restart ComfyUI")
