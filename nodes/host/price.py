"""What a picture at Segmind costs, as the node's definition tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from comfy_api.v0_0_2 import io

from ...remote.service import AVERAGE_COST_USD, estimate_usd
from .account import journal_folder


def _expression(dollars: float) -> str:
    """JSON, which is JSONata as well. Text, since the frontend shows a number of dollars as Comfy's credits."""
    return json.dumps({"type": "text", "text": f"about ${dollars:.4f} a picture"})


@dataclass
class AccountPrice(io.PriceBadge):
    """The estimate by the last jobs, read when ComfyUI lists its nodes: importing the pack reads nothing."""

    expr: str = field(default_factory=lambda: _expression(AVERAGE_COST_USD))

    def as_dict(self, schema_inputs: list[io.Input]) -> dict[str, Any]:
        return {**super().as_dict(schema_inputs), "expr": _expression(estimate_usd(journal_folder()))}
