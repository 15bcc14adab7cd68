"""Text under a node while and after it runs, drawn by `nodes/web/said.js`."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from comfy_api.v0_0_2 import io

from .newer_host import MissingFromHost, needs_host

log = logging.getLogger(__name__)

EVENT = "klein9b.said"
OUTPUT = "klein9b"

# What each running node has said; the same list is among its outputs, so that what it says later is kept there too.
_words: WeakKeyDictionary[type[io.ComfyNode], list[str]] = WeakKeyDictionary()


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Shows text on the running node; the node declares the unique_id hidden input."""
    if node in _words:
        _words[node][:] = [text]
    try:
        _send(node, text)
    except MissingFromHost as error:
        _say_once(f"No text is shown under nodes. {error}")


@needs_host()
def _send(node: type[io.ComfyNode], text: str) -> None:
    import server

    running = getattr(server.PromptServer, "instance", None)
    if running is not None and running.client_id is not None:  # else everyone who watches this host would read it
        running.send_sync(EVENT, {"node": node.hidden.unique_id, "text": text}, running.client_id)


@functools.cache
def _say_once(sentence: str) -> None:
    log.warning("%s", sentence)


def speaking(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same node, whose words are part of what it hands out.

    ComfyUI keeps them with its outputs then, and sends them again where it need not run: to a page that was loaded
    anew, say.
    """
    describe, execute = node.define_schema.__func__, node.execute.__func__

    def define_schema(cls: type[io.ComfyNode]) -> io.Schema:
        schema: io.Schema = describe(cls)
        schema.has_intermediate_output = True
        return schema

    node.define_schema = classmethod(define_schema)
    node.execute = classmethod(_remembering(execute))
    return node


def _remembering(execute: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(execute):

        @functools.wraps(execute)
        async def remembering(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
            words = _words[cls] = []
            return _with_words(await execute(cls, *args, **inputs), cls, words)

        return remembering

    @functools.wraps(execute)
    def remembering_now(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
        words = _words[cls] = []
        return _with_words(execute(cls, *args, **inputs), cls, words)

    return remembering_now


def _with_words(output: io.NodeOutput, node: type[io.ComfyNode], words: list[str]) -> io.NodeOutput:
    """Every run of a node that may speak has its words there, be they none: the host joins several by their names."""
    if getattr(node.hidden, "unique_id", None) is not None:
        shown = output.ui or {}
        output.ui = {**(shown if isinstance(shown, dict) else shown.as_dict()), OUTPUT: [words]}
    return output
