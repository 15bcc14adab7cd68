"""Text under a node while and after it runs."""

from __future__ import annotations

from comfy_api.v0_0_2 import io
from server import PromptServer


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Shows text on the running node; the node declares the unique_id hidden input."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node.hidden.unique_id)
