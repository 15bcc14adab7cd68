"""Which attention Klein's blocks run: the host's own, torch's, the fastest exact one, or one in 8-bit integers.

It is an optimized_attention_override in the host's transformer_options. It changes the attention it is made for, that
of Klein's blocks; whatever else comes, with a mask or another head size, is left to the host.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...klein.attention_timing import (
    Attend,
    FastestAttention,
    Shape,
    first_line,
    is_recorded,
    sdpa,
    unfit_because,
)
from .lossy_attention import LossyAttention, NotHere, kitchen_int8, sage
from .model_state import ByValue
from .newer_host import needs_host

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)

KEY = "optimized_attention_override"
HEAD_DIM = 128
# Below it, launching and rounding cost more than a faster kernel gains.
FEWEST_KEYS_TO_TIME = 1024
FEWEST_KEYS_TO_ROUND = 2048
# Of a head, relative to float32. 8 bits are some percent off; a kernel that misreads its inputs is 100 % off.
NOT_ROUNDING = 0.3
# What the host says along with a call and what changes nothing of the result.
_REMARKS = {"transformer_options", "_inside_attn_wrapper", "low_precision_attention", "preferred_attention"}

Tell = Callable[[str], None]


class Attention(str, Enum):
    """What a node offers. The last two are approximate."""

    AUTO = "auto"
    SDPA = "sdpa"
    SAGE = "sage"
    KITCHEN_INT8 = "kitchen int8"


class AttentionOverride(ByValue):
    """What the host calls in place of its attention, with that as its first argument."""

    fewest_keys = 0

    def __call__(
        self,
        func: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **options: Any,
    ) -> Tensor:
        form = {"attn_precision": attn_precision, "skip_reshape": skip_reshape}

        def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return func(q, k, v, heads, mask=mask, skip_output_reshape=skip_output_reshape, **form, **options)

        plain = mask is None and attn_precision is None and skip_reshape and not _changes_result(options)
        out = None
        if plain and _is_kleins(q, k, v) and k.shape[2] >= self.fewest_keys and self.allowed(options):
            out = self.compute(q, k, v, own)
        if out is None:
            return own(q, k, v)
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    def allowed(self, options: dict[str, Any]) -> bool:
        """Whether what the host says along with a call lets this attention run."""
        return True

    @abstractmethod
    def compute(self, q: Tensor, k: Tensor, v: Tensor, own: Attend) -> Tensor | None:
        """The result, all of them (batch, heads, tokens, head_dim); None where the host's own attention is to run."""


class TorchsChoice(AttentionOverride):
    """torch's scaled_dot_product_attention, which chooses its backend."""

    description = Attention.SDPA.value

    def compute(self, q: Tensor, k: Tensor, v: Tensor, own: Attend) -> Tensor | None:
        return sdpa(q, k, v)


class Fastest(AttentionOverride):
    """The fastest exact backend; equal for all that share the timings."""

    description = Attention.AUTO.value
    fewest_keys = FEWEST_KEYS_TO_TIME

    def __init__(self, fastest: FastestAttention, tell: Tell) -> None:
        self._fastest, self._tell = fastest, tell

    def compute(self, q: Tensor, k: Tensor, v: Tensor, own: Attend) -> Tensor | None:
        if torch.compiler.is_compiling():
            return None
        return self._fastest.attend(q, k, v, own, self._say)

    def _say(self, sentence: str) -> None:
        log.info("Klein 9B: %s", sentence)
        self._tell(sentence)


class Rounding(AttentionOverride):
    """An approximate attention, checked on the first tensors of each shape; one failure ends its use.

    Attributes:
        failed: why it runs no more, empty while it does.
    """

    fewest_keys = FEWEST_KEYS_TO_ROUND

    def __init__(self, attention: LossyAttention, tell: Tell) -> None:
        self._attention, self._tell = attention, tell
        self._checked: set[Shape] = set()
        self.failed = ""

    @property
    def description(self) -> Hashable:
        return self._attention.name, bool(self.failed)

    def allowed(self, options: dict[str, Any]) -> bool:
        return options.get("low_precision_attention") is not False

    def compute(self, q: Tensor, k: Tensor, v: Tensor, own: Attend) -> Tensor | None:
        if self.failed:
            return None
        if torch.compiler.is_compiling() and self._attention.traceable:
            return self._attention.attend(q, k, v)
        return self._eagerly(q, k, v)

    @torch.compiler.disable
    def _eagerly(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if Shape.of(q, k) not in self._checked and not self._check(q, k, v):
            return None
        try:
            return self._attention.attend(q, k, v)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            self._fail(first_line(error))
            return None

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        if is_recorded(q.device):
            return False
        why = unfit_because(self._attention.attend, q, k, v, NOT_ROUNDING)
        if why:
            self._fail(why)
        else:
            self._checked.add(Shape.of(q, k))
        return not why

    def _fail(self, why: str) -> None:
        self.failed = why
        sentence = f"{self._attention.name} failed ({why}): ComfyUI's own attention runs."
        log.warning("Klein 9B: %s", sentence)
        self._tell(sentence)


@dataclass(frozen=True)
class AttentionChoice:
    """What came of a choice.

    Attributes:
        override: for the host's transformer_options; None leaves the host's own attention in place.
        reason: what runs and why, one sentence.
        approximate: why the result is one, empty where it is exact.
    """

    override: AttentionOverride | None
    reason: str
    approximate: str = ""


# Of the process, so that a shape is timed once.
_fastest = FastestAttention()
_LOSSY = {Attention.SAGE: sage, Attention.KITCHEN_INT8: kitchen_int8}


def choose(choice: str, device: torch.device, tell: Tell = lambda sentence: None) -> AttentionChoice:
    """What a choice means for a model on a device. What cannot run is said in the log and leaves the host's own.

    Args:
        choice: a value of `Attention`.
        device: the model's load_device.
        tell: gets a sentence when, during a run, a backend was timed or an approximate attention failed.

    Raises:
        ValueError: the choice is none.
    """
    known = [one.value for one in Attention]
    if choice not in known:
        raise ValueError(f"attention is {choice!r}, but must be one of {', '.join(known)}.")
    if choice == Attention.SDPA:
        return AttentionChoice(TorchsChoice(), "sdpa: torch chooses the attention backend.")
    if choice == Attention.AUTO:
        return _auto(device, tell)
    try:
        attention = _LOSSY[Attention(choice)](device)
    except NotHere as error:
        return _instead(f"{Attention(choice).value}: {error}, so ComfyUI's own attention runs.")
    reason = f"{Attention(choice).value}: {attention.name} runs for {FEWEST_KEYS_TO_ROUND} keys and more."
    return AttentionChoice(Rounding(attention, tell), reason, attention.approximate)


def _auto(device: torch.device, tell: Tell) -> AttentionChoice:
    if device.type != "cuda":
        where = f"the model runs on {device.type}, where there is one exact attention"
        return AttentionChoice(None, f"auto: {where}, so ComfyUI's own runs.")
    reason = "auto: exact attention backends are timed once for each shape, and the fastest runs."
    return AttentionChoice(Fastest(_fastest, tell), reason)


def _instead(sentence: str) -> AttentionChoice:
    log.warning("Klein 9B: %s", sentence)
    return AttentionChoice(None, sentence)


@needs_host()
def put_on(model: ModelPatcher, choice: AttentionChoice) -> AttentionChoice:
    """Puts a choice on a MODEL, a clone of the caller's, in place of an earlier one of ours.

    Returns:
        What is in force: an override that another node has set stays, and is said in the log.
    """
    options = model.model_options["transformer_options"]
    there = options.get(KEY)
    if there is not None and not isinstance(there, AttentionOverride):
        if choice.override is None:
            return choice
        return _instead("Another node has chosen the attention of this model, and its choice stays.")
    options.pop(KEY, None)
    if choice.override is not None:
        options[KEY] = choice.override
    return choice


def _is_kleins(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether they are what Klein's blocks attend with."""
    alike = k.shape == v.shape and q.ndim == 4 and q.shape[:2] == k.shape[:2] and q.dtype == k.dtype == v.dtype
    return alike and q.shape[-1] == k.shape[-1] == HEAD_DIM and not any(t.requires_grad for t in (q, k, v))


def _changes_result(options: dict[str, Any]) -> bool:
    """Whether the host asks for something that these attentions do not do, such as another scale."""
    asked = (value for name, value in options.items() if name not in _REMARKS)
    return any(value is not None and value is not False for value in asked)
