"""Segmind Remote: a picture from the hosted Klein 9B, paid for once."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from ..klein.framing import UnusableImage
from ..remote import service
from ..remote.service import (
    ASPECT_RATIOS,
    IMAGE_FORMATS,
    MAX_REFERENCES,
    MAX_SEED,
    SAMPLERS,
    KleinRequest,
    SegmindError,
)
from .host.account import cancel_button, log, open_account, secret_because
from .host.pictures import as_batch, frames_in_order
from .host.price import AccountPrice
from .host.progress import Waiting, finished
from .host.text import show_text

MAX_COUNT = 16
LEFT_ALONE = (
    "The run ended before the picture came. Segmind has no cancel: what it accepted is charged if it completes, and its"
    " picture is kept for you. Run the same inputs again to pick it up; that costs nothing."
)


class SegmindRemote(io.ComfyNode):
    """Sends a request to Segmind's queue, follows it and returns the picture."""

    incomplete_runs: ClassVar[int] = 0

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SegmindRemote",
            display_name="Segmind Remote",
            category="Klein 9B/Segmind",
            description=(
                "Makes the picture with Klein 9B on Segmind's servers, beside whatever your own GPU is doing. Each "
                "picture costs about $0.04 and is never paid for twice: run the same inputs again after a timeout, "
                "a cancel or a crash and the job is picked up. Connected images are uploaded to addresses that are "
                "public, unlisted and permanent. Needs SEGMIND_API_KEY; see the help page."
            ),
            search_aliases=["klein api", "flux 2 klein remote", "cloud", "segmind", "hosted klein", "serverless"],
            inputs=[*_what_to_make(), *_how_it_looks(), *_terms()],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture, or a batch with one picture a seed."),
                io.Mask.Output(display_name="mask", tooltip="1 where the picture is transparent, as a rule nowhere."),
                io.String.Output(
                    display_name="receipt",
                    tooltip="JSON: request_id, seed, cost, its estimate, credits left, seconds and sha256; a list "
                    "where count is above 1. Never holds the key.",
                ),
                io.Int.Output(display_name="seed", tooltip="The first picture's seed."),
            ],
            hidden=[io.Hidden.unique_id],
            price_badge=AccountPrice(),
        )

    @classmethod
    def validate_inputs(
        cls,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        image_urls: str | None = None,
        images: dict[str, Any] | None = None,
    ) -> bool | str:
        """Refuses a key before the prompt is queued: the queue, the history and every PNG keep it from then on.

        The host hands over `images` wherever the schema has it.
        """
        return secret_because(prompt=prompt, negative_prompt=negative_prompt, image_urls=image_urls) or True

    @classmethod
    def fingerprint_inputs(cls, reuse: str | None = None, on_item_error: str | None = None, **_: Any) -> str:
        """Lets Run do again what the host's cache would answer: always_new, and pictures that were skipped."""
        if reuse == "always_new":
            return uuid.uuid4().hex
        return str(SegmindRemote.incomplete_runs) if on_item_error == "skip" else ""

    @classmethod
    async def execute(
        cls,
        prompt: str,
        negative_prompt: str,
        image_urls: str,
        seed: int,
        cfg: float,
        sampler: str,
        steps: int,
        aspect_ratio: str,
        go_fast: bool,
        image_format: str,
        quality: int,
        count: int,
        timeout_s: int,
        on_item_error: str,
        max_cost_usd: float,
        reuse: str,
        images: dict[str, torch.Tensor | None] | None = None,
    ) -> io.NodeOutput:
        account = open_account()
        service.refuse_secrets({"prompt": prompt, "negative_prompt": negative_prompt, "image_urls": image_urls})
        first = KleinRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            image_urls=tuple(line.strip() for line in image_urls.splitlines() if line.strip()),
            seed=seed,
            cfg=cfg,
            sampler=sampler,
            steps=steps,
            aspect_ratio=aspect_ratio,
            go_fast=go_fast,
            image_format=image_format,
            quality=quality,
        )
        requests = [first.with_seed(seed + i) for i in range(count)]
        terms = service.Terms(timeout_s=timeout_s, on_item_error=on_item_error, max_cost_usd=max_cost_usd, reuse=reuse)
        return await cls._obtain(account, requests, _to_upload(images or {}, len(first.image_urls)), terms)

    @classmethod
    async def _obtain(
        cls, account: service.Account, requests: list[KleinRequest], arrays: list[Any], terms: service.Terms
    ) -> io.NodeOutput:
        cancel = cancel_button()
        waiting = Waiting(lambda text: show_text(cls, text), len(requests))
        skipped: dict[int, SegmindError] = {}
        try:
            pictures = await service.run(
                account,
                requests,
                arrays,
                terms,
                on_progress=waiting.hear,
                cancelled=cancel.pressed,
                on_skip=skipped.__setitem__,
            )
        except service.Interrupted as error:
            show_text(cls, str(error))
            log.warning("Segmind Remote: %s", error)
            raise cancel.ended from None
        except asyncio.CancelledError:
            # Another node failed or was cancelled, and the host ends its loop: nobody reads this result. A
            # cancellation that got out of a node would end the host's prompt thread for good.
            show_text(cls, LEFT_ALONE)
            log.warning("Segmind Remote: %s", LEFT_ALONE)
            return io.NodeOutput(block_execution=LEFT_ALONE)
        SegmindRemote.incomplete_runs += bool(skipped)
        return cls._output(requests, pictures, skipped)

    @classmethod
    def _output(
        cls, requests: list[KleinRequest], pictures: list[service.Picture], skipped: dict[int, SegmindError]
    ) -> io.NodeOutput:
        seeds = {place: requests[place].seed for place in skipped}
        left_out = [f"No picture for seed {seeds[place]}: {error}" for place, error in skipped.items()]
        show_text(cls, finished([picture.receipt for picture in pictures], left_out))
        coming = iter(pictures)
        receipts = [
            {"seed": request.seed, "error": str(skipped[place])} if place in skipped else next(coming).receipt
            for place, request in enumerate(requests)
        ]
        image, mask = as_batch(pictures)
        text = json.dumps(receipts if len(requests) > 1 else receipts[0], indent=2)
        return io.NodeOutput(image, mask, text, requests[0].seed)


def _to_upload(images: dict[str, torch.Tensor | None], urls: int) -> list[np.ndarray]:
    """Every connected frame, in order.

    Args:
        urls: how many references come beside them, by their addresses.

    Raises:
        SegmindError: one is no picture, or together they are more than a request takes.
    """
    try:
        frames = frames_in_order(images)
    except UnusableImage as error:
        raise SegmindError(str(error), "Nothing was sent and nothing was charged", "Connect another picture") from None
    counts = Counter(frame.socket for frame in frames)
    service.refuse_too_many_references({**counts, "image_urls": urls})
    return [frame.pixels for frame in frames]


def _what_to_make() -> list[io.Input]:
    image = io.Image.Input(
        "image", optional=True, tooltip="A reference, uploaded. Every frame of a batch is a reference of its own."
    )
    return [
        io.String.Input(
            "prompt", multiline=True, tooltip="What the picture should show. References are image 1, image 2 and so on."
        ),
        io.String.Input(
            "negative_prompt",
            default="low quality, blurry, less details",
            multiline=True,
            tooltip="What it should not show.",
        ),
        io.Autogrow.Input(
            "images",
            template=io.Autogrow.TemplateNames(
                image, names=[f"image_{i}" for i in range(1, MAX_REFERENCES + 1)], min=0
            ),
            optional=True,
            tooltip="Reference images; order is meaning. They are uploaded to addresses that are public, unlisted "
            "and permanent. The same pixels are uploaded once; above 2048x2048 pixels they are scaled down.",
        ),
        io.String.Input(
            "image_urls",
            default="",
            multiline=True,
            tooltip="References that are online already: https addresses, one a line. They follow the connected "
            "images in order.",
        ),
        io.Int.Input(
            "seed",
            default=3425234,
            min=0,
            max=MAX_SEED,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="The same seed and inputs are the same request, which is paid once. With randomize every Run is "
            "another request. A random seed is drawn here, never by the server.",
        ),
    ]


def _how_it_looks() -> list[io.Input]:
    return [
        io.Float.Input(
            "cfg", default=5.0, min=1.0, max=20.0, step=0.1, tooltip="How closely the prompts are followed."
        ),
        io.Combo.Input(
            "sampler", options=list(SAMPLERS), default="euler", tooltip="How noise is walked down to a picture."
        ),
        io.Int.Input("steps", default=20, min=1, max=100, tooltip="Number of sampling steps."),
        io.Combo.Input(
            "aspect_ratio",
            options=list(ASPECT_RATIOS),
            default="1:1",
            tooltip="Shape of the picture. match_input_image: image 1's. 21:9 is not on the published list; if "
            "Segmind refuses it you see its own words and pay nothing.",
        ),
        io.Boolean.Input("go_fast", default=True, tooltip="Segmind's faster way of making the picture."),
        io.Combo.Input(
            "image_format",
            options=list(IMAGE_FORMATS),
            default="png",
            tooltip="The file Segmind makes and this node keeps. png loses nothing.",
        ),
        io.Int.Input("quality", default=90, min=10, max=100, tooltip="Quality of a jpeg or webp file."),
        io.Int.Input(
            "count",
            default=1,
            min=1,
            max=MAX_COUNT,
            tooltip="Pictures to make, with seed, seed + 1 and so on: each is a job of its own and is paid for "
            "separately.",
        ),
    ]


def _terms() -> list[io.Input]:
    return [
        io.Int.Input(
            "timeout_s",
            default=900,
            min=1,
            max=3300,
            advanced=True,
            tooltip="When to stop waiting, in seconds. The job itself goes on; run again to pick it up.",
        ),
        io.Combo.Input(
            "on_item_error",
            options=["raise", "skip"],
            default="raise",
            advanced=True,
            tooltip="Where count is above 1 and one picture fails. raise: wait for the others, keep them, then stop "
            "with the error. skip: go on with the pictures there are. Either way running again pays only for what "
            "is missing.",
        ),
        io.Float.Input(
            "max_cost_usd",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.01,
            advanced=True,
            tooltip="No job is sent whose estimated cost would take this run past it, in dollars; 0 for no limit. The "
            "estimate is the dearest of your last twenty jobs, at least $0.0402: allow $0.05 a picture.",
        ),
        io.Combo.Input(
            "reuse",
            options=["auto", "always_new"],
            default="auto",
            advanced=True,
            tooltip="auto: the same inputs give the picture you have paid for already. always_new: every Run pays "
            "for another.",
        ),
    ]
