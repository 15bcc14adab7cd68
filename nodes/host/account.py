"""What the Segmind nodes need of the host: a private folder, the key, and whether the person pressed Cancel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...remote.service import Account, RedactingFilter, SegmindError, refuse_secrets
from .newer_host import needs_host

log = logging.getLogger(__name__)
log.addFilter(RedactingFilter())


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
    """The account of the host's folder; see `Account.of`."""
    return Account.of(journal_folder())


def secret_because(**texts: str | None) -> str:
    """Why these inputs must not be saved; empty when they may."""
    try:
        refuse_secrets({name: text for name, text in texts.items() if isinstance(text, str)})
    except SegmindError as error:
        return str(error)
    return ""
