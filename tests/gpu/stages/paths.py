"""Stage 4: what only a card can try of the pack: copies from pinned RAM, placements, pressure, what is missing, OOM.

Each check compares pictures of the same seed, of a model of full width and few blocks; none stops the others.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from pack import ROOT
from torch import Tensor

from ..cells import BASE, BF16, DISTILLED, EXACT, FAST, FP8, INT8, STOCK
from ..context import Context, Overran, first_line, is_lost, limited
from ..errors import relative
from ..results import of_kind
from ..scale import Scale
from ..steps import Runs, normal
from ..ways import cached, compiled, way
from ..weights import Models

# Relative, of final latents: roundings of bf16 in another order, and keys kept in fewer bits.
SAME = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-4}
QUANTISED = 0.15
COARSE = {"int8": 0.1, "int4": 0.3}


def run(context: Context) -> None:
    if context.no_host:
        context.skip("the pack's paths on a card", context.no_host)
        return
    kit = Kit(context)
    done = {record["name"] for record in of_kind(context.results.last_run(), "path")}
    for name, check in CHECKS.items():
        if name in done:
            continue
        if context.deadline.left < 5:
            context.skip(f"{name} and the checks after it", "their time is over")
            return
        _one(context, name, check, kit)


def _one(context: Context, name: str, check: Callable[[Kit], str], kit: Kit) -> None:
    try:
        with limited(context.deadline.left):
            verdict = {"passed": True, "found": check(kit)}
    except NotHere as reason:
        context.skip(name, str(reason))
        return
    except (Exception, Overran) as error:
        verdict = {"passed": False, "found": first_line(error)}
        if is_lost(error):
            context.add("path", name=name, **verdict)
            raise
    context.add("path", name=name, **verdict)
    context.say(f"  {'ok    ' if verdict['passed'] else 'FAILED'} {name}: {verdict['found']}")


class NotHere(RuntimeError):
    """The check has nothing to try on this machine."""


class Kit:
    """Models of few blocks, and the pictures they make."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.device, self.dtype = context.device, context.dtype
        self.scale: Scale = context.scale if context.dry else replace(context.scale, doubles=2, singles=4)
        self.models = Models(self.scale, self.device, self.dtype)

    def runs(self, references: int = 1, mode: str = DISTILLED) -> Runs:
        return Runs(self.scale, self.scale.sides[-1], references, mode, self.device)

    def picture(self, model: Any, runs: Runs, steps: int = 2) -> Tensor:
        runs.visit(model, steps=steps)
        assert runs.last is not None and torch.isfinite(runs.last).all(), "the picture is not finite"
        return runs.last

    def near(self, got: Tensor, wanted: Tensor, limit: float) -> str:
        off = relative(got, wanted)
        assert off <= limit, f"{off:.2e} apart, {limit:g} allowed"
        return "equal bits" if torch.equal(got, wanted) else f"{off:.2e} apart"

    def as_stock(self, precision: str, kind: str, limit: float, runs: Runs, models: Models | None = None) -> str:
        model = (models or self.models).get(precision)
        reports: list[Any] = []
        ours = self.picture(way(model, kind, told=reports.append), runs)
        assert reports and reports[-1].accelerated, "no block was accelerated"
        assert not reports[-1].left, f"left to the host: {reports[-1].left}"
        return self.near(ours, self.picture(way(model, STOCK), runs), limit)


def pinned_copies(kit: Kit) -> str:
    """Of several layers, while the device is at work."""
    from klein9b.klein.layer_stream import LayerStream
    from klein9b.nodes.host.cache_memory import host_ram

    layers = [tuple(normal(1, 8, 64, 128, seed=i + j).to(kit.device) for j in (0, 50)) for i in range(4)]
    ram, stream = host_ram(), LayerStream(kit.device)
    copies = [ram.copy(layer) for layer in layers]
    busy = torch.ones(512, 512, device=kit.device)
    for turn in range(20):
        copy, following = copies[turn % 4], copies[(turn + 1) % 4]
        taken = stream.take(turn, copy.tensors)
        stream.start(turn + 1, following.tensors)
        busy = (busy @ busy).clamp(-1, 1)
        assert all(torch.equal(one, other) for one, other in zip(taken, layers[turn % 4])), f"turn {turn} differs"
    stream.forget()
    pinned = sum(copy.pinned_bytes for copy in copies)
    for copy in copies:
        copy.release()
    return f"20 turns with equal bits, {pinned / 2**20:.1f} MiB were pinned"


def placements(kit: Kit) -> str:
    from klein9b.klein.kv_store import Placement

    runs, pictures = kit.runs(2), []
    for placement in (Placement.GPU, Placement.CPU, Placement.AUTO):
        model, shown = cached(kit.models.get(BF16), placement=placement)
        pictures += [kit.picture(model, runs) for _ in range(2)]
        assert shown[-1].startswith("hit"), f"{placement.value}: {shown[-1]}"
        del model
    return "; ".join(kit.near(picture, pictures[0], 0.0) for picture in pictures[1:])


def stores(kit: Kit) -> str:
    from klein9b.klein.kv_store import Storage

    runs, model = kit.runs(2), kit.models.get(BF16)
    pictures = {}
    for storage in Storage:
        made, _ = cached(model, storage=storage)
        pictures[storage] = [kit.picture(made, runs) for _ in range(2)][-1]
    exact = pictures[Storage.MODEL]
    return "; ".join(f"{s.value} {kit.near(pictures[s], exact, COARSE[s.value])}" for s in (Storage.INT8, Storage.INT4))


def cache_under_acceleration(kit: Kit) -> str:
    runs, model = kit.runs(2), kit.models.get(BF16)
    plain, _ = cached(model)
    ours, shown = cached(way(model, FAST))
    told = kit.near(kit.picture(ours, runs), kit.picture(plain, runs), SAME[kit.dtype])
    assert not shown[-1].startswith("stock path"), shown[-1]
    return told


def pressure(kit: Kit) -> str:
    """Other memory is taken, so that the host leaves weights in RAM and the references follow."""
    if kit.device.type != "cuda":
        raise NotHere("needs a card whose memory can be filled")
    import comfy.model_management

    runs = kit.runs(2)
    ours, shown = cached(way(kit.models.get(BF16), FAST))
    wanted = kit.picture(ours, runs)
    comfy.model_management.unload_all_models()
    free = torch.cuda.mem_get_info()[0]
    with ballast(free - 3 * 2**30):
        got = kit.picture(ours, runs)
    left = kit.models.get(BF16).loaded_size() / 2**30
    told = kit.near(got, wanted, SAME[kit.dtype])
    return f"{told} with {left:.1f} GiB of weights on the card; {shown[-1].splitlines()[0]}"


@contextlib.contextmanager
def ballast(size: int) -> Iterator[None]:
    """Takes so many bytes of the card."""
    torch.cuda.empty_cache()
    taken = torch.empty(max(0, size), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del taken
        torch.cuda.empty_cache()


def out_of_memory(kit: Kit) -> str:
    """Attention once finds no memory: what is kept moves to RAM and the evaluation is tried again."""
    runs, calls = kit.runs(1), []
    model = kit.models.get(BF16).clone()

    def attention(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate (a test)")
        return call(*args, **kwargs)

    wanted = kit.picture(cached(model)[0], runs)
    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    ours, shown = cached(model)
    told = kit.near(kit.picture(ours, runs), wanted, SAME[kit.dtype])
    assert not shown[-1].startswith("stock path"), shown[-1]
    return f"{told}; {shown[-1].splitlines()[0]}"


def without(*names: str) -> Callable[[Kit], str]:
    """The ladder climbed anew where these packages cannot be imported."""

    def check(kit: Kit) -> str:
        from klein9b.kernels.ladder import Ladder
        from klein9b.kernels.rungs import RUNGS
        from klein9b.nodes.host.acceleration import Acceleration, accelerated
        from klein9b.nodes.host.block_functions import host_rope

        ladder, runs, model = Ladder(RUNGS), kit.runs(1), kit.models.get(BF16)
        like = torch.empty(1, 1, 1, device=kit.device, dtype=kit.dtype)
        with mock.patch.dict(sys.modules, dict.fromkeys(names)):
            found = ladder.ops_for(like, exact=True, rotation=host_rope())
        wrong = [choice.op for choice in found.choices if _package(choice.backend) in names]
        assert not wrong, f"chosen all the same: {wrong}"
        ours = accelerated(model, Acceleration(lambda like: found.ops, ("without", names), lambda report: None))
        told = kit.near(kit.picture(ours, runs), kit.picture(way(model, STOCK), runs), SAME[kit.dtype])
        return f"{told}; runs on {', '.join(sorted({choice.backend for choice in found.choices}))}"

    return check


def _package(backend: str) -> str:
    return {"kitchen": "comfy_kitchen"}.get(backend, backend)


def half(kit: Kit) -> str:
    models = Models(kit.scale, kit.device, torch.float16 if kit.device.type == "cuda" else torch.float32)
    return kit.as_stock(BF16, FAST, SAME[models.dtype], kit.runs(1), models)


def a_batch(kit: Kit) -> str:
    runs = kit.runs(0)
    runs.noise = torch.cat((runs.noise, runs.noise.flip(-1)))
    return kit.as_stock(BF16, FAST, SAME[kit.dtype], runs)


def guided(kit: Kit) -> str:
    return kit.as_stock(BF16, FAST, SAME[kit.dtype], kit.runs(1, BASE))


def exact_profile(kit: Kit) -> str:
    return kit.as_stock(BF16, EXACT, SAME[kit.dtype], kit.runs(1))


def quantised(precision: str) -> Callable[[Kit], str]:
    def check(kit: Kit) -> str:
        return kit.as_stock(precision, FAST, QUANTISED, kit.runs(1))

    return check


def patched(precision: str) -> Callable[[Kit], str]:
    """As a LoRA changes weights, here by a difference."""

    def check(kit: Kit) -> str:
        model = kit.models.get(precision).clone()
        name = "diffusion_model.single_blocks.0.linear2.weight"
        difference = 0.01 * normal(kit.scale.hidden, 4 * kit.scale.hidden, seed=5)
        assert model.add_patches({name: ("diff", (difference,))}), "the host did not take the patch"
        runs = kit.runs(1)
        wanted, ours = kit.picture(model, runs), kit.picture(way(model, FAST), runs)
        plain = relative(kit.picture(kit.models.get(precision), runs), wanted)
        assert plain > 1e-6, "the patch changed nothing"
        return kit.near(ours, wanted, QUANTISED if precision != BF16 else SAME[kit.dtype])

    return check


def eight_bit(choice: str) -> Callable[[Kit], str]:
    """Attention in 8 bits, where it is installed."""

    def check(kit: Kit) -> str:
        from klein9b.nodes.host.attention_choice import choose, put_on

        runs, model = kit.runs(1), kit.models.get(BF16)
        chosen = choose(choice, kit.device)
        if chosen.override is None:
            raise NotHere(chosen.reason)
        ours = way(model, FAST)
        put_on(ours, chosen)
        told = kit.near(kit.picture(ours, runs), kit.picture(way(model, STOCK), runs), QUANTISED)
        assert not chosen.override.failed, chosen.override.failed
        return told

    return check


def compiled_behind(kit: Kit) -> str:
    """The host's compiler over our blocks, which fuses the eager ops itself."""
    runs, model = kit.runs(0), kit.models.get(BF16)
    ours = compiled(way(model, FAST), "eager" if kit.context.dry else "inductor")
    return kit.near(kit.picture(ours, runs), kit.picture(way(model, STOCK), runs), SAME[kit.dtype])


def card_tests(kit: Kit) -> str:
    """The suite's own test of planned peaks, where pytest is."""
    if kit.device.type != "cuda":
        raise NotHere("needs a card")
    test = "tests/nodes/host/test_peaks.py"
    command = [sys.executable, "-m", "pytest", "-q", "-k", "a_card_agrees", test]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=kit.context.deadline.left)
    if "No module named pytest" in answer.stderr:
        raise NotHere("pytest is not installed")
    last = [line for line in answer.stdout.splitlines() if "passed" in line or "failed" in line or "skipped" in line]
    assert answer.returncode == 0, (last or answer.stdout.splitlines() or ["no output"])[-1]
    return last[-1].strip("= ") if last else "passed"


def by_parts(kit: Kit) -> str:
    """A part of weight 2 is as its keys twice, by every kernel that gives a log-sum-exp to merge by."""
    from klein9b.kernels import attend
    from klein9b.kernels.eager.attention_parts import Part, attention_parts
    from klein9b.klein.attention_timing import TOLERANCE

    query, key, value = (normal(1, 8, 1027, 128, seed=seed).to(kit.device, kit.dtype) for seed in range(3))
    twice = [torch.cat((one, one[:, :, 600:]), dim=2).float() for one in (key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(query.float(), *twice)
    found = []
    with contextlib.ExitStack() as stack:
        for off in (None, "can_use_flash_attention", "can_use_efficient_attention"):
            if off is not None:
                stack.enter_context(mock.patch.object(attend, off, return_value=False))
            got = attention_parts(query, key, value, [Part(slice(0, 600)), Part(slice(600, None), math.log(2))])
            found.append(kit.near(got.output, wanted, TOLERANCE[kit.dtype]))
    return "flash {}, memory-efficient {}, the formula {}".format(*found)


CHECKS: dict[str, Callable[[Kit], str]] = {
    "copies from pinned RAM beside work": pinned_copies,
    "accelerated fast is stock": lambda kit: kit.as_stock(BF16, FAST, SAME[kit.dtype], kit.runs(1)),
    "accelerated exact is stock": exact_profile,
    "int8: accelerated is stock": quantised(INT8),
    "fp8: accelerated is stock": quantised(FP8),
    "references on the card, in RAM, wherever there is room": placements,
    "references kept in int8 and int4": stores,
    "the cache over accelerated blocks": cache_under_acceleration,
    "no memory in the middle of a step": out_of_memory,
    "weights and references while memory is short": pressure,
    "without Triton": without("triton"),
    "without comfy_kitchen": without("comfy_kitchen"),
    "without both": without("triton", "comfy_kitchen"),
    "a patched weight, bf16": patched(BF16),
    "a patched weight, int8": patched(INT8),
    "fp16": half,
    "a batch of two": a_batch,
    "cfg 5": guided,
    "attention by sage": eight_bit("sage"),
    "attention by kitchen int8": eight_bit("kitchen int8"),
    "attention by parts": by_parts,
    "planned peaks": card_tests,
    "accelerated behind TorchCompileModel": compiled_behind,
}
