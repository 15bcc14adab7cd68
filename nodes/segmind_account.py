"""What the Segmind nodes need of the host: a private folder, the key, and whether the person pressed Cancel."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from comfy.model_management import InterruptProcessingException
from comfy.model_management import processing_interrupted as interrupted

from ..remote.errors import SegmindError
from ..remote.keys import Hosts, Key, load_key, refuse_secrets
from ..remote.redaction import RedactingFilter

__all__ = [
    "Account",
    "InterruptProcessingException",
    "interrupted",
    "journal_folder",
    "log",
    "open_account",
    "secret_in",
]

log = logging.getLogger(__name__)
log.addFilter(RedactingFilter())


@dataclass(frozen=True)
class Account:
    """Where jobs are kept, who pays, and which servers are asked."""

    directory: Path
    key: Key
    hosts: Hosts


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
