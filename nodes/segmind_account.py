"""What the Segmind nodes need of the host: a private folder, the key, and whether the person pressed Cancel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..remote.errors import SegmindError
from ..remote.keys import Hosts, Key, RedactingFilter, load_key, refuse_secrets
from .newer_host import needs_host

log = logging.getLogger(__name__)
log.addFilter(RedactingFilter())


@dataclass(frozen=True)
class Account:
    """Where jobs are kept, who pays, and which servers are asked."""

    directory: Path
    key: Key
    hosts: Hosts


@dataclass(frozen=True)
class CancelButton:
    """Whether the person pressed it, and the error with which a node then ends."""

    pressed: Callable[[], bool]
    ended: type[BaseException]


@needs_host()
def cancel_button() -> CancelButton:
    """Found before anything is sent: what cannot be cancelled is not begun."""
    import comfy.model_management

    return CancelButton(
        comfy.model_management.processing_interrupted, comfy.model_management.InterruptProcessingException
    )


def journal_folder() -> Path:
    """The key file, the journal and paid pictures; a system user's folder, which the host never serves."""
    return Path(folder_paths.get_system_user_directory("segmind"))


def open_account() -> Account:
    """Read anew for every run, so that a key set meanwhile counts.

    Raises:
        SegmindError: there is no usable key, or a host variable is not a URL the key may go to.
    """
    folder = journal_folder()
    return Account(folder, load_key(folder), Hosts.from_environment())


def secret_in(**texts: str | None) -> str:
    """Why these inputs must not be saved; empty when they may."""
    try:
        refuse_secrets({name: text for name, text in texts.items() if isinstance(text, str)})
    except SegmindError as error:
        return str(error)
    return ""
