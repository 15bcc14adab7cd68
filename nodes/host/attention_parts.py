"""Attention by parts in one evaluation of the host's model: its override, the tokens taken out and those added.

The host's own blocks, ours and those of the reference cache all call one attention, which a single function in
transformer_options may override. Tokens change where the host lets a patch change what its blocks are given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...kernels.eager.attention_parts import Part
from ...klein.attention_plan import Group, Layout, attention_plan, reference_plan
from ...klein.influence import AttentionSettings, within
from ...klein.parts_run import Plain, attended_by_parts
from .changed_tokens import ChangedTokens, filled_up, kept_tokens
from .model_state import ByValue, identity
from .tile_options import WHERE

if TYPE_CHECKING:
    from comfy.patcher_extension import WrapperExecutor

log = logging.getLogger(__name__)

KEY = "klein9b_attention"
OVERRIDE = "optimized_attention_override"
PASSED_BY = (
    "Klein 9B: {passed} of {blocks} blocks computed their attention without the settings of this prompt: another node "
    "replaces them."
)


def reached_for() -> tuple[object, ...]:
    """What settings look up in the host while it samples, for whoever must know beforehand that it is there."""
    import comfy.patcher_extension

    return comfy.patcher_extension.WrappersMP.APPLY_MODEL, comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL


def act_on(
    options: dict[str, Any],
    settings: AttentionSettings,
    x: Tensor,
    cond: dict[str, Any],
    sigma_at: Callable[[float], float],
    said: set[str],
) -> None:
    """Puts settings into an evaluation's transformer_options, joined to what was put there before.

    Args:
        x: (batch, channels, height, width).
        cond: the conditioning by name, as the model is given it.
        sigma_at: the model's sigma at a fraction of its schedule.
        said: what the log was told in this run.
    """
    before = options.get(KEY)
    tile = options.get(WHERE)
    now = _in_this_step(within(settings, tile.window, tile.picture) if tile else settings, options, sigma_at)
    joined = before.settings.joined(now) if before else now
    parts = AttentionParts(joined, x, cond, before.inner if before else options.get(OVERRIDE), said)
    options[KEY] = options[OVERRIDE] = parts
    _hang(options, "wrappers", parts.wrapper_kind(), {KEY: [parts.diffusion_model]})
    found = [one for one in options.get("patches", {}).get("post_input", []) if not isinstance(one, ChangedTokens)]
    options["patches"] = options.get("patches", {}) | {"post_input": [*found, parts.changed_tokens]}


def _hang(options: dict[str, Any], group: str, kind: str, ours: dict[str, Any]) -> None:
    inside = options.get(group, {})
    options[group] = inside | {kind: inside.get(kind, {}) | ours}


def _in_this_step(
    settings: AttentionSettings, options: dict[str, Any], sigma_at: Callable[[float], float]
) -> AttentionSettings:
    """References outside their interval count for nothing. A sigma is asked of the device only where there is one."""
    if all(one.interval.whole for one in settings.influences.values()):
        return settings
    sigma, schedule = float(options["sigmas"].flatten()[0]), options.get("sample_sigmas")
    steps = [] if schedule is None else schedule.tolist()
    out = {
        number: replace(one, strength=0.0)
        for number, one in settings.influences.items()
        if not (one.interval.whole or one.interval.holds(sigma, steps, sigma_at))
    }
    return replace(settings, influences={**settings.influences, **out})


class AttentionParts:
    """What one evaluation's blocks call in place of their attention.

    Attributes:
        inner: the override that was there before, which attends where there is nothing to weigh.
        kept: of each reference, the indices of the tokens that stay; None for all of them.
    """

    def __init__(
        self, settings: AttentionSettings, x: Tensor, cond: dict[str, Any], inner: Any, said: set[str]
    ) -> None:
        self.settings = settings
        self.inner = inner
        latents = cond.get("ref_latents") or ()
        self.kept = tuple(kept_tokens(settings, number, latent) for number, latent in enumerate(latents, 1))
        whole = tuple(latent.shape[-2] * latent.shape[-1] for latent in latents)
        counts = tuple(size if kept is None else len(kept) for size, kept in zip(whole, self.kept))
        negative = settings.negative and filled_up(settings.negative.embeds).shape[1]
        height, width = x.shape[-2:]
        self.layout = Layout(cond["c_crossattn"].shape[1], negative or 0, (height, width), counts)
        self.changed_tokens = ChangedTokens(self.layout, whole, self.kept)
        self.calls = 0
        self._said = said
        self._plans: dict[bool, tuple[Group, ...]] = {}

    @staticmethod
    def wrapper_kind() -> str:
        import comfy.patcher_extension

        kind: str = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        return kind

    def diffusion_model(
        self, executor: WrapperExecutor, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Around the model: adds the negative prompt behind the prompt, and says where blocks passed us by."""
        negative = self.settings.negative
        if negative is not None:
            added = filled_up(negative.embeds).to(context).expand(len(context), -1, -1)
            context = torch.cat((context, added), dim=1)
        self.calls = 0
        out: Tensor = executor(x, timestep, context, *args, **kwargs)
        model = executor.class_obj
        blocks = len(model.double_blocks) + len(model.single_blocks)
        if self.calls < blocks:
            self._say(PASSED_BY.format(passed=blocks - self.calls, blocks=blocks))
        return out

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning(text)

    def __call__(
        self,
        func: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        *args: Any,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        plain = _plain(self.inner, func, heads, *args, mask=mask, **options)
        self.calls += 1
        groups = self.groups(q, k)
        if not groups:
            return plain(q, k, v)
        if mask is not None or args or not options.get("skip_reshape") or options.get("skip_output_reshape"):
            raise ValueError(
                "The conditioning carries an attention mask, or another node calls attention in a way that Klein 9B "
                "does not know, so strengths, regions and negative prompts cannot act. Remove one of the two."
            )
        negative = self.settings.negative
        return attended_by_parts(groups, q, k, v, plain, negative.strength if negative else 1.0)

    def of_references(self) -> Any:
        """The override of a pass in which references attend to references alone; None for the host's own attention."""
        groups = reference_plan(self.settings, self.layout.references)
        return OfReferences(groups, self.inner) if groups else self.inner

    def groups(self, q: Tensor, k: Tensor) -> tuple[Group, ...]:
        """Of queries and keys (batch, heads, tokens, head_dim): all tokens, or all but the references'."""
        asked, layout = (q.shape[2], k.shape[2]), self.layout
        if asked not in ((layout.tokens, layout.tokens), (layout.own, layout.tokens)):
            raise ValueError(
                f"A block attends with {asked[0]} tokens to {asked[1]}, but the prompt, the picture and the references "
                f"are {layout.own} and {layout.tokens}: another node adds or removes tokens, so strengths, regions and "
                "negative prompts cannot act. Remove one of the two."
            )
        attend = asked[0] == layout.tokens
        if attend not in self._plans:
            made = attention_plan(self.settings, layout, references_attend=attend)
            self._plans[attend] = on_device(made, q.device)
        return self._plans[attend]


class OfReferences(ByValue):
    """What the reference pass calls in place of its attention.

    Attributes:
        groups: of all references' tokens.
    """

    def __init__(self, groups: tuple[Group, ...], inner: Any) -> None:
        self._groups = groups
        self._inner = inner

    @property
    def description(self) -> Hashable:
        return repr(self._groups), identity(self._inner)

    def __call__(
        self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **options: Any
    ) -> Tensor:
        return attended_by_parts(self._groups, q, k, v, _plain(self._inner, func, heads, *args, **options))


def _plain(inner: Any, func: Callable[..., Tensor], heads: int, *args: Any, **options: Any) -> Plain:
    """The attention that would be called were we not there."""
    attend = func if inner is None else partial(inner, func)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made: Tensor = attend(q, k, v, heads, *args, **options)
        return made

    return plain


def on_device(groups: Sequence[Group], device: torch.device) -> tuple[Group, ...]:
    """The same groups, with what is indices or weights where queries and keys are."""

    def moved(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(replace(part, **_tensors(part, device)) for part in parts)

    return tuple(replace(group, parts=moved(group.parts), instead=moved(group.instead)) for group in groups)


def _tensors(part: Part, device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) for name, value in vars(part).items() if isinstance(value, Tensor)}
