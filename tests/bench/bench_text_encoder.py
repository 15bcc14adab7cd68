"""What the text encoder costs: 27 layers beside the host's 36, and a prompt that is known already.

Qwen3-8B's depth and width with next to nothing between, on the processor; the head that writes text included, as in
the real file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peak_memory import PeakMemory
from safetensors.torch import save_file

from host.checkout import NoHost, find_checkout
from host.inprocess import enter
from klein9b.klein.prompt import TAPS
from standins.text_encoder import shrink_qwen3_8b, text_encoder

LAYERS = 36
ROUNDS = 5
TEXT = "a red fox in the snow"
RATIO_LIMIT = 0.78
WARM_LIMIT_MS = 20
# The share of stock's bytes: the header, what the system reads ahead of it, and the kept encoding of 25 MB.
DISK_LIMIT = 0.3

Row = dict[str, Any]


def row(name: str, value: float, unit: str, limit: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "limit": limit}


def main() -> list[Row]:
    """Rows of {"name", "value", "unit", "limit"}; a value over its limit is a regression."""
    try:
        enter(find_checkout())
    except NoHost as reason:
        name = "text encoder, 27 layers / the host's 36"
        return [{"name": name, "value": None, "unit": "", "limit": RATIO_LIMIT, "why": str(reason)}]
    full_size = memory()  # before the host builds small ones
    shrink_qwen3_8b()
    with tempfile.TemporaryDirectory() as folder:
        import folder_paths

        folder_paths.set_user_directory(folder)
        path = Path(folder) / "qwen_3_8b.safetensors"
        weights = text_encoder(layers=LAYERS, head=True)
        save_file({name: weight.to(torch.bfloat16) for name, weight in weights.items()}, path)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # waiting for one another is most of what several do on a busy machine
        try:
            return [*layers(path), full_size, *known_prompt(path)]
        finally:
            torch.set_num_threads(threads)


def lazy(path: Path) -> Any:
    from klein9b.nodes.host.lazy_clip import lazy_clip

    return lazy_clip(str(path), [], None)


def stock(path: Path) -> Any:
    import comfy.sd

    options = {"qwen3_8b_model_config": {"num_hidden_layers": LAYERS}}
    kind = comfy.sd.CLIPType.FLUX2
    return comfy.sd.load_clip([str(path)], embedding_directory=[], clip_type=kind, model_options=options)


def layers(path: Path) -> list[Row]:
    """Time of ours / stock's, turned every round: the machine's noise only ever adds."""
    clips = {"ours": lazy(path), "stock": stock(path)}
    tokens = clips["stock"].tokenize(TEXT)
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    for clip in clips.values():
        clip.encode_from_tokens(tokens)
    for i in range(ROUNDS):
        for name, clip in list(clips.items())[:: 1 if i % 2 else -1]:
            times[name].append(seconds(lambda clip=clip: clip.encode_from_tokens(tokens)))
    fastest = {name: min(runs) for name, runs in times.items()}
    return [
        row("text encoder, seconds of 27 layers / the host's 36", fastest["ours"] / fastest["stock"], "x", RATIO_LIMIT),
    ]


def memory() -> Row:
    """Of ours / stock's at Qwen3-8B's own shapes in bfloat16, on the meta device."""
    from klein9b.nodes.host.lazy_clip import SHORT

    (short,) = SHORT.values()
    return row("text encoder at full size, peak bytes / the host's", peak(short) / peak({}), "x", RATIO_LIMIT)


def peak(settings: dict[str, Any]) -> int:
    """The weights and the most that lives beside them while 512 tokens are encoded."""
    import comfy.ops
    import comfy.text_encoders.llama as llama

    meta, tokens = torch.device("meta"), 512
    model = llama.Qwen3_8B(settings, torch.bfloat16, meta, comfy.ops.manual_cast)
    embeds = torch.empty(1, tokens, model.model.config.hidden_size, device=meta)
    mask = torch.ones(1, tokens, dtype=torch.long, device=meta)
    options = {"intermediate_output": list(TAPS), "final_layer_norm_intermediate": False, "dtype": torch.float32}
    attention = mock.patch.object(llama, "optimized_attention_for_device", lambda *_, **__: flash_attention)
    with attention, torch.inference_mode(), PeakMemory() as counted:
        model(None, mask, embeds=embeds, num_tokens=[tokens], **options)
    return sum(weight.nbytes for weight in model.parameters()) + counted.peak


def flash_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *_: Any, **__: Any) -> torch.Tensor:
    """The memory it takes: no matrix of scores."""
    return q.new_empty(q.shape[0], q.shape[2], heads * q.shape[3])


def known_prompt(path: Path) -> list[Row]:
    from klein9b.nodes.host import kept_prompts
    from klein9b.nodes.host.klein_encoder import Precision

    def encode(clip: Any) -> None:
        kept_prompts.encode_prompt(clip, TEXT, Precision.FP32)

    encode(lazy(path))
    times = {}
    for place, forget_ram in (("RAM", lambda: None), ("disk", kept_prompts._store_of.cache_clear)):
        clip, runs = lazy(path), []
        for _ in range(ROUNDS):
            forget_ram()
            runs.append(seconds(lambda clip=clip: encode(clip)))
        assert not clip.is_open
        times[place] = row(f"a known prompt, from {place}", 1e3 * min(runs), "ms", WARM_LIMIT_MS)
    return [*times.values(), *restart(path, encode, kept_prompts)]


def restart(path: Path, encode: Callable[[Any], None], kept_prompts: Any) -> list[Row]:
    """What of the files the system has read after a first prompt, from none of them in its memory."""
    (kept,) = kept_prompts.prompts_folder().iterdir()
    if forget(path) or forget(kept):
        why = "the system keeps the files in memory"
        return [{"name": "bytes from disk", "value": None, "unit": "", "limit": DISK_LIMIT, "why": why}]
    kept_prompts._store_of.cache_clear()
    clip = lazy(path)
    encode(clip)
    ours, weights = in_memory(path) + in_memory(kept), loaded_bytes(clip)
    forget(path)
    theirs = stock(path)
    theirs.encode_from_tokens(theirs.tokenize(TEXT))
    return [
        row("a known prompt after a restart, bytes of weights loaded", weights, "", 0),
        row("a known prompt after a restart, bytes from disk / stock's", ours / in_memory(path), "x", DISK_LIMIT),
    ]


def loaded_bytes(clip: Any) -> int:
    return clip.patcher.model_size() if clip.is_open else 0


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def forget(path: Path) -> int:
    """Asks the system to drop a file from its memory; how many bytes of it are still there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return in_memory(path)


def in_memory(path: Path) -> int:
    """How many bytes of a file the system holds, so has read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages)
        del start
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
