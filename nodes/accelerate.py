"""Klein 9B Accelerate: the model's blocks on kernels made for them, and what need not be computed left out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfy_api.v0_0_2 import io

from ..klein.interval import CfgInterval
from .host.acceleration import Acceleration, Report, accelerated, unfit_because
from .host.attention_choice import Attention, AttentionChoice, choose, put_on
from .host.cfg_interval import with_cfg_interval
from .host.chosen_ops import ChosenOps, Profile
from .host.newer_host import MissingFromHost, needs_host
from .host.text import show_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)

MOST_NAMED = 3  # of Klein's 32 blocks


class Klein9BAccelerate(io.ComfyNode):
    """Our blocks in place of the host's, in a clone of the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Klein9BAccelerate",
            display_name="Klein 9B Accelerate",
            category="Klein 9B/More",
            description=(
                "Makes every step faster and takes less memory: passes over the picture's tokens are joined, on "
                "kernels made for Klein where there is a GPU for them, and what nobody reads is not computed. It gains "
                "most with int8 models (Klein 9B Quantize). Works with LoRAs, ControlNets, Klein 9B Reference Cache "
                "and offloading; what another node changes runs as it would without."
            ),
            search_aliases=[
                "speed",
                "faster",
                "kernels",
                "triton",
                "sage attention",
                "int8 attention",
                "cfg interval",
                "compile",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A Klein 9B model. LoRAs may come before or after this node."),
                io.Combo.Input(
                    "profile",
                    options=[profile.value for profile in Profile],
                    default=Profile.EXACT.value,
                    tooltip="exact: every number is rounded where ComfyUI rounds it. fast: rounded less often, so that "
                    "a picture may differ as little as it does between two graphics cards.",
                ),
                io.Combo.Input(
                    "attention",
                    options=[choice.value for choice in Attention],
                    default=Attention.AUTO.value,
                    tooltip="auto: the fastest exact attention of this card, timed once for each size. sdpa: torch "
                    "chooses. sage and kitchen int8: 8-bit attention, faster with references and approximate.",
                ),
                io.Float.Input(
                    "cfg_from",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For base models: cfg acts from this part of the schedule on. Before it, cfg is 1 and a "
                    "step costs half. 0 and 1 leave cfg as it is; anything else is approximate.",
                ),
                io.Float.Input(
                    "cfg_until",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For base models: cfg acts up to this part of the schedule; after it, cfg is 1 and a step "
                    "costs half. Late steps need it least.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, faster.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, cfg_from: float, cfg_until: float) -> bool | str:
        if cfg_from > cfg_until:
            return f"cfg_from is {cfg_from:g} and cfg_until {cfg_until:g}: expected the earlier one first."
        return True

    @classmethod
    def execute(
        cls, model: ModelPatcher, profile: str, attention: str, cfg_from: float, cfg_until: float
    ) -> io.NodeOutput:
        try:
            return io.NodeOutput(cls._accelerated(model, Profile(profile), attention, cfg_from, cfg_until))
        except MissingFromHost as error:
            log.warning("Klein 9B Accelerate is off: %s", error)
            show_text(cls, f"OFF: {error}")
            return io.NodeOutput(model)

    @classmethod
    @needs_host()
    def _accelerated(
        cls, model: ModelPatcher, profile: Profile, attention: str, cfg_from: float, cfg_until: float
    ) -> ModelPatcher:
        unfit = unfit_because(model)
        if unfit is not None:
            log.warning("Klein 9B Accelerate is off: %s.", unfit)
            show_text(cls, f"OFF: {unfit}")
            return model
        ops, notes = ChosenOps(profile, model), list[str]()
        chosen, interval = AttentionChoice(None, ""), CfgInterval(cfg_from, cfg_until)

        def show(report: Report) -> None:
            approximations = [chosen.approximate, interval.approximate]
            show_text(cls, told(ops, chosen.reason, report, notes, approximations))

        faster = accelerated(model, Acceleration(ops, ops.description, show))
        chosen = put_on(faster, choose(attention, faster.load_device, notes.append))
        return with_cfg_interval(faster, cfg_from, cfg_until)


def told(ops: ChosenOps, attention: str, report: Report, notes: list[str], approximations: list[str]) -> str:
    """What a run came to, for the person in front of the node. Takes the notes."""
    lines = [f"{ops.profile.value}: {ops.summary}" if report.accelerated else not_accelerated(report)]
    lines += [attention, *notes]
    lines += [f"left to ComfyUI: {counted(blocks)}, as {why}" for why, blocks in by_reason(report).items()]
    lines += [f"approximate: {why}" for why in approximations if why]
    notes.clear()
    return "\n".join(line for line in lines if line)


def not_accelerated(report: Report) -> str:
    """While code is compiled no block of ours is asked for, so that there is no reason in the report either."""
    return "nothing was accelerated" + ("" if report.left else ": compiled code has its passes joined by the compiler")


def by_reason(report: Report) -> dict[str, list[str]]:
    """What was left, under each reason."""
    return {why: [one for one, other in report.left.items() if other == why] for why in report.left.values()}


def counted(blocks: list[str]) -> str:
    return ", ".join(blocks) if len(blocks) <= MOST_NAMED else f"{len(blocks)} blocks"
