"""Text under a node while and after it runs."""

from __future__ import annotations

import functools
import logging

from comfy_api.v0_0_2 import io

from .newer_host import MissingFromHost, needs_host

log = logging.getLogger(__name__)


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Shows text on the running node; the node declares the unique_id hidden input."""
    try:
        _send(node, text)
    except MissingFromHost as error:
        _say_once(f"No text is shown under nodes. {error}")


@needs_host()
def _send(node: type[io.ComfyNode], text: str) -> None:
    import server

    running = getattr(server.PromptServer, "instance", None)
    if running is not None:
        running.send_progress_text(text, node.hidden.unique_id)


@functools.cache
def _say_once(sentence: str) -> None:
    log.warning("%s", sentence)
