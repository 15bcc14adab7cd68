"""How many bytes Klein takes while it runs: weights, activations, the references' cache, the VAE.

Each peak is written as the tensors that live at that moment, in rows of the model's width, and is tested against the
peaks counted in the host's own forward at full size. Kernel workspaces are not in it: a card needs a few tens of
megabytes more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from .framing import GRID, Size
from .kv_store import Storage

MLP_RATIO = 3
HEAD_DIM = 128
TEXT_TOKENS = 512
ITEM = 2  # bytes of bfloat16 and of float16, in one of which a card computes
_POSITION = HEAD_DIM // 2 * 4 * 4  # bytes of a token's rotation matrices, in float32
_FIRST_LAYER = 3 + 2 * MLP_RATIO  # a single block's: queries, keys, values and both halves of the MLP
_VAE_WIDTH = 128
_PIXELS = 3


@dataclass(frozen=True)
class Dims:
    """A FLUX.2 transformer's size.

    Attributes:
        hidden: width of a token.
        context: width of the text's features.
    """

    hidden: int = 4096
    double_blocks: int = 8
    single_blocks: int = 24
    context: int = 12288

    @property
    def blocks(self) -> int:
        return self.double_blocks + self.single_blocks

    @property
    def largest_matrix(self) -> int:
        """Elements of a single block's first layer."""
        return self.hidden * self.hidden * _FIRST_LAYER


KLEIN_9B = Dims()


@dataclass(frozen=True)
class Job:
    """One picture, or a batch of them.

    Attributes:
        size: of the new picture in pixels.
        references: sizes of the reference images as they are encoded, on the grid.
        guided: cfg is above 1, so that the prompt and the negative are evaluated, side by side.
        cache: how Klein 9B Reference Cache keeps the references, None without it.
    """

    size: Size
    references: tuple[Size, ...] = ()
    batch: int = 1
    guided: bool = False
    cache: Storage | None = None
    text_tokens: int = TEXT_TOKENS

    @property
    def rows(self) -> int:
        """Sequences evaluated at once."""
        return self.batch * (2 if self.guided else 1)

    @cached_property
    def picture_tokens(self) -> int:
        return tokens(self.size)

    @cached_property
    def reference_tokens(self) -> int:
        return sum(tokens(one) for one in self.references)

    @property
    def cached(self) -> bool:
        return self.cache is not None and bool(self.references)


def tokens(size: Size) -> int:
    """One for each 16x16 pixels."""
    return math.ceil(size.width / GRID) * math.ceil(size.height / GRID)


def activation_bytes(dims: Dims, job: Job) -> int:
    """The most that one evaluation of the model holds beside its weights and the references' cache."""
    if not job.cached:
        return forward_bytes(dims, job)
    return max(cached_forward_bytes(dims, job), reference_pass_bytes(dims, job))


def forward_bytes(dims: Dims, job: Job) -> int:
    """The host's own forward, references in its sequence.

    The peak lies in a single block's MLP: the block's input, its first layer's output, the attention's output, silu of
    one half and its product with the other. The double blocks' text stream and the position table live to the end.
    """
    length = job.text_tokens + job.picture_tokens + job.reference_tokens
    wide = 1 + _FIRST_LAYER + 1 + 2 * MLP_RATIO
    return job.rows * (_rows(dims, length * wide + job.text_tokens) + length * _POSITION)


def cached_forward_bytes(dims: Dims, job: Job) -> int:
    """A step with cached references: as `forward_bytes` without them, or where their keys and values are appended.

    There a block holds its input, its first layer's output, normed queries and keys, rotated keys, and keys and values
    with the references' behind them, which storage that rounds has unpacked before.
    """
    length = job.text_tokens + job.picture_tokens
    mlp = length * (1 + _FIRST_LAYER + 1 + 2 * MLP_RATIO)
    appending = length * (1 + _FIRST_LAYER + 3) + 2 * (length + job.reference_tokens)
    unpacked = 0 if job.cache in (None, Storage.MODEL) else 2 * job.reference_tokens
    own = (
        _rows(dims, mlp + job.text_tokens),
        _rows(dims, appending + job.text_tokens) + _rows(dims, unpacked) // job.rows,
    )
    return job.rows * (max(own) + length * _POSITION)


def reference_pass_bytes(dims: Dims, job: Job) -> int:
    """Computing the references' keys and values: their tokens alone, one sequence, whatever the batch.

    The peak lies where a block puts attention and MLP side by side: its input, its first layer's output, rotated
    queries and keys, attention, the MLP's product, and the last two joined. Storage that rounds still has the pair
    that it has rounded last; elsewhere that is what the cache keeps.
    """
    wide = 1 + _FIRST_LAYER + 2 + 1 + MLP_RATIO + (1 + MLP_RATIO)
    rounded = 0 if job.cache in (None, Storage.MODEL) else 2
    return _rows(dims, job.reference_tokens * (wide + rounded)) + job.reference_tokens * _POSITION


def cache_bytes(dims: Dims, job: Job) -> int:
    """What the references' keys and values take in all blocks, 0 without the cache."""
    if job.cache is None:
        return 0
    heads = dims.hidden // HEAD_DIM
    return 2 * dims.blocks * heads * job.reference_tokens * job.cache.bytes_per_vector(HEAD_DIM, torch.bfloat16)


def vae_encode_bytes(size: Size) -> int:
    """Encoding one image whole: three tensors of the first level's width at the image's own size."""
    return ITEM * size.area * (3 * _VAE_WIDTH + _PIXELS)


def vae_decode_bytes(size: Size, *, decoder: int = _VAE_WIDTH) -> int:
    """Decoding one picture whole: five tensors of the last level's width, and three times the picture.

    Args:
        decoder: channels of that level, fewer in the small decoder.
    """
    return ITEM * size.area * (5 * decoder + 3 * _PIXELS)


def host_estimate(dims: Dims, job: Job, *, prompts: int = 1) -> int:
    """What ComfyUI takes one evaluation for, before it decides how much of the model to load.

    Its BaseModel.memory_required with Flux2's factor (comfy/model_base.py, comfy/supported_models.py), as its
    sampler_helpers.estimate_memory asks at least: of one prompt. The references' cache is unknown to it, and so is how
    many pictures of the batch have them.

    Args:
        prompts: evaluated side by side.
    """
    factor = 3.1 * 4 * dims.hidden / 2604
    area = prompts * (job.batch * job.picture_tokens + job.reference_tokens)
    return int(area * ITEM * 0.01 * factor * 1024 * 1024)


def host_vae_encode(size: Size) -> int:
    """What ComfyUI sets aside for `vae_encode_bytes` (comfy/sd.py VAE.memory_used_encode)."""
    return 1767 * size.area * ITEM


def host_vae_decode(size: Size) -> int:
    """What ComfyUI sets aside for `vae_decode_bytes`, whatever the decoder (comfy/sd.py VAE.memory_used_decode)."""
    return 2178 * tokens(size) * 64 * 4 * ITEM


class DoesNotFit(RuntimeError):
    """No card of this size can run it, however little of the model stays there; the message has the numbers."""


def refuse_unfit(dims: Dims, job: Job, room: int, card: str) -> None:
    """Before anything is loaded. What is certain is counted and nothing else: activations, not one weight.

    Prompt and negative are evaluated in turn where there is no room for both, so a guided job is taken for one that is
    not; a cached one for the stock path where that takes less, since the cache may step aside.

    Args:
        room: bytes that may be allocated on the card at all.
        card: its name.

    Raises:
        DoesNotFit: the least that one evaluation takes is more.
    """
    alone = replace(job, guided=False)
    stock = forward_bytes(dims, alone)
    least = min(stock, activation_bytes(dims, alone)) if job.cached else stock
    if least > room:
        count = job.text_tokens + job.picture_tokens + job.reference_tokens
        raise DoesNotFit(
            f"This cannot run on {card}: one step needs {_gib(least)} beside the model's weights, and there are "
            f"{_gib(room)} in all. {_what(job)} are {count:,} tokens{_times(job.batch)}. {_smaller(job)}"
        )


def refuse_unfit_references(dims: Dims, references: Sequence[Size], room: int, card: str) -> None:
    """As `refuse_unfit`, where neither model nor picture are known: what no way of running a block does without.

    That is its input, and the keys and values of all tokens, however the rest is cut to pieces.
    """
    count = sum(tokens(size) for size in references)
    least = _rows(dims, 3 * count)
    if least > room:
        raise DoesNotFit(
            f"{len(references)} references cannot run on {card}: their {count:,} tokens need at least {_gib(least)} at "
            f"once, beside the model's weights and the picture, and there are {_gib(room)} in all. Connect fewer or "
            "smaller ones; every frame of a batch is a reference."
        )


def _what(job: Job) -> str:
    count = len(job.references)
    references = f" and {count} reference{'s' * (count > 1)}" if count else ""
    return f"The prompt, the picture of {job.size}{references}"


def _times(batch: int) -> str:
    return f", {batch} times" if batch > 1 else ""


def _smaller(job: Job) -> str:
    wishes = ["a smaller picture"]
    wishes += ["fewer or smaller references"] * bool(job.references) + ["a smaller batch"] * (job.batch > 1)
    return f"Choose {' or '.join(wishes)}."


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _rows(dims: Dims, count: int) -> int:
    """Bytes of so many tokens of the model's width."""
    return count * dims.hidden * ITEM
