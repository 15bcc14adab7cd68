"""What the Segmind nodes need of the host: a private folder, the key, and whether the person pressed Cancel."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
from comfy.model_management import InterruptProcessingException
from comfy.model_management import processing_interrupted as interrupted

from ..remote.service import Account, RedactingFilter, SegmindError, refuse_secrets

__all__ = [
    "InterruptProcessingException",
    "interrupted",
    "journal_folder",
    "log",
    "open_account",
    "secret_because",
]

log = logging.getLogger(__name__)
log.addFilter(RedactingFilter())


def journal_folder() -> Path:
    """The key file, the journal and paid pictures; a system user's folder, which the host never serves."""
    return Path(folder_paths.get_system_user_directory("segmind"))


def open_account() -> Account:
    """The account of the host's folder; see `Account.of`."""
    return Account.of(journal_folder())


def secret_because(**texts: str | None) -> str:
    """Why these inputs must not be saved; empty when they may."""
    try:
        refuse_secrets({name: text for name, text in texts.items() if isinstance(text, str)})
    except SegmindError as error:
        return str(error)
    return ""
