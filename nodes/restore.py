"""Klein 9B Restore: back to image 1's own pixels."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.v0_0_2 import io

from .host.frame import Frame, FrameSocket, restored
from .host.pictures import frames_of


class Klein9BRestore(io.ComfyNode):
    """Returns an edited picture to the size and framing of image 1."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BRestore",
            display_name="Klein 9B Restore",
            category="Klein 9B",
            description=(
                "Returns an edited picture to image 1's original pixel size and framing, so that it lies exactly "
                "over the original: padding is removed, cropped edges are taken from the original, and nothing "
                "shifts. Needs aspect_ratio match_input_image or enlarge_input_image on Klein 9B References. After "
                "Klein 9B Inpaint it puts the painted part back and leaves every other pixel as it was."
            ),
            search_aliases=["original size", "restore size", "uncrop", "unpad", "pixel shift", "resize back"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded picture, also after an upscaler."),
                FrameSocket.Input(
                    "frame",
                    tooltip="How image 1 was fitted, from Klein 9B References or Klein 9B Inpaint. With no image 1 "
                    "there is nothing to restore and the picture passes unchanged.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture at the pixel size and framing of image 1.")
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, frame: Frame | None) -> io.NodeOutput:
        if frame is None:
            return io.NodeOutput(image)
        whole = restored(frame, [one.pixels for one in frames_of("image", image)])
        return io.NodeOutput(torch.from_numpy(np.stack(whole)).to(image.device))
