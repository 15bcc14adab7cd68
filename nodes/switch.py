"""Klein 9B Switch: the picture of one lane, while the other does not run at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.v0_0_2 import io

from .host.text import show_text

LOCAL, SEGMIND, WHERE_IT_FITS = "local", "Segmind", "local where it fits, else Segmind"
NOTHING_DONE = "Nothing was loaded, sent or charged"
_SAID = {
    "local": "Made on this machine: nothing sent, nothing charged.",
    "remote": "Made by Segmind; Segmind Remote says what it cost.",
}
_REFUSED = "The plan says that this does not fit here: Segmind makes it."


class Klein9BSwitch(io.ComfyNode):
    """Hands on the picture of the lane that was chosen; inputs are lazy, so that the other one does nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BSwitch",
            display_name="Klein 9B Switch",
            category="Klein 9B/Segmind",
            description=(
                "Takes the picture from your own GPU or from Segmind Remote. The other lane does not run: it loads no "
                "weight and sends nothing. It never spends unless you choose so, and an error on your GPU never "
                "becomes a job at Segmind."
            ),
            search_aliases=["lane switch", "local or remote", "lazy switch", "gpu or cloud", "fallback to segmind"],
            inputs=[
                io.Image.Input(
                    "local", optional=True, lazy=True, tooltip="The picture from your own GPU, after VAE Decode."
                ),
                io.Image.Input(
                    "remote",
                    optional=True,
                    lazy=True,
                    tooltip="The picture from Segmind Remote. Let nothing else hang on that node's outputs: a preview "
                    "of its receipt would run it whatever the lane.",
                ),
                io.Boolean.Input(
                    "fits",
                    optional=True,
                    lazy=True,
                    force_input=True,
                    tooltip="From Klein 9B Plan, for the third lane alone: whether the job runs on this machine.",
                ),
                io.Combo.Input(
                    "lane",
                    options=[LOCAL, SEGMIND, WHERE_IT_FITS],
                    default=LOCAL,
                    tooltip="local: your own GPU, never a cost. Segmind: the hosted model, paid for once. The third: "
                    "your GPU unless the plan refuses the job before it starts; then Segmind, which is paid for.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture of the lane that ran.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def check_lazy_status(cls, lane: str, **sockets: Any) -> list[str]:
        """The one input to be computed next. What is not connected is not in `sockets`, what waits is None.

        Raises:
            ValueError: the lane cannot be had.
        """
        source = _source(lane, sockets)
        if source not in sockets:
            raise ValueError(_missing(source, sockets))
        if source == "remote" and lane == WHERE_IT_FITS:
            show_text(cls, _REFUSED)
        return [source] if sockets[source] is None else []

    @classmethod
    def execute(
        cls,
        lane: str,
        local: torch.Tensor | None = None,
        remote: torch.Tensor | None = None,
        fits: bool | None = None,
    ) -> io.NodeOutput:
        pictures = {"local": local, "remote": remote}
        source = _source(lane, {"fits": fits})
        show_text(cls, f"{_REFUSED} {_SAID[source]}" if fits is False and lane == WHERE_IT_FITS else _SAID[source])
        return io.NodeOutput(pictures[source])


def _source(lane: str, sockets: Mapping[str, Any]) -> str:
    """The input that the picture comes from; "fits" while that decides and is not known."""
    if lane == WHERE_IT_FITS:
        fits = sockets.get("fits")
        if fits is None:
            return "fits"
        if isinstance(fits, bool):
            return "local" if fits else "remote"
        raise ValueError(f"fits is {fits!r}, but must be true or false, as Klein 9B Plan says it. {NOTHING_DONE}.")
    if lane not in (LOCAL, SEGMIND):
        raise ValueError(f"lane is {lane!r}, but must be {LOCAL}, {SEGMIND} or {WHERE_IT_FITS!r}. {NOTHING_DONE}.")
    return "local" if lane == LOCAL else "remote"


def _missing(source: str, sockets: Mapping[str, Any]) -> str:
    if source == "fits":
        return f"Nothing says whether the job fits: connect fits of Klein 9B Plan, or choose a lane. {NOTHING_DONE}."
    if source == "remote" and sockets.get("fits") is False:
        return (
            "The plan says that this does not fit here, and nothing is connected to remote: connect Segmind Remote, or "
            f"make the picture smaller. {NOTHING_DONE}."
        )
    wanted = "the picture from VAE Decode" if source == "local" else "Segmind Remote"
    return f"Nothing is connected to {source}: connect {wanted}, or choose the other lane. {NOTHING_DONE}."
