"""What the reference cache saves: floating-point operations at Klein 9B's real shapes, and wall time.

The processor's ratios are below a card's: at the size it can bear, the 512 text tokens are two images' worth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from host.checkout import NoHost, find_checkout
from host.edits import cached, edit, forget, normal
from host.inprocess import enter

REFERENCES = (1, 2, 4)
STEPS = 4
GRID = 64
TERA = 10**12


COLD_LIMIT = {1: 406, 2: 526, 4: 819}
WARM_LIMIT = {1: 341, 2: 381, 4: 460}
SIZE_LIMIT = {"model dtype": 2, "int8": 1.05, "int4": 0.65}
ERROR_LIMIT = {"model dtype": 0, "int8": 0.01, "int4": 0.09}
OURS = ("ours, cold", "ours, warm")
OTHERS = ("no cache", "stock FluxKVCache")

Row = dict[str, Any]


def row(what: str, references: int, value: float, unit: str, limit: float | None = None) -> Row:
    plural = "s" * (references != 1)
    return {"name": f"{references} reference{plural}, {what}", "value": value, "unit": unit, "limit": limit}


def main(*, rounds: int = 3) -> list[Row]:
    """Rows of {"name", "value", "unit", "limit"}; a value over its limit is a regression, None is no limit.

    FLOPs at 9B's real shapes, then seconds of a whole run and their ratios: on a card where there is one, else on
    the processor.
    """
    try:
        checkout = find_checkout()
    except NoHost as reason:
        return [absent("the reference cache", str(reason))]
    enter(checkout)
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    if torch.cuda.is_available():
        return [*flops(), *storages("cuda"), *wall_time_on_gpu(rounds)]
    missing = absent("the same at 9B's shapes on a GPU, bfloat16", "no CUDA device on this machine")
    return [*flops(), *storages("cpu"), *wall_time_on_cpu(rounds), missing]


def absent(name: str, why: str) -> Row:
    return {"name": name, "value": None, "unit": "", "limit": None, "why": why}


def klein_9b(device: str, dtype: torch.dtype, *, hidden: int = 4096, doubles: int = 8, singles: int = 24) -> Any:
    """The host's own class at Klein 9B's shapes, or smaller."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    return Flux(
        in_channels=128, out_channels=128, vec_in_dim=None, context_in_dim=12288, hidden_size=hidden, mlp_ratio=3.0,
        num_heads=hidden // 128, depth=doubles, depth_single_blocks=singles, axes_dim=[32] * 4, theta=2000,
        patch_size=1, qkv_bias=False, guidance_embed=False, txt_ids_dims=[3], global_modulation=True,
        mlp_silu_act=True, ops_bias=False, default_ref_method="index", ref_index_scale=10.0,
        dtype=dtype, device=device, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip


class Inputs(NamedTuple):
    x: torch.Tensor
    timestep: torch.Tensor
    context: torch.Tensor
    references: list[torch.Tensor] | None

    def ask(self, model: Any, options: dict[str, Any], **extra: Any) -> torch.Tensor:
        return model(
            self.x, self.timestep, self.context, ref_latents=self.references, transformer_options=options, **extra
        )


def meta_inputs(count: int) -> Inputs:
    """1024x1024, 512 text tokens and so many references of 1024x1024."""

    def latent() -> torch.Tensor:
        return torch.empty(1, 128, GRID, GRID, device="meta", dtype=torch.bfloat16)

    context = torch.empty(1, 512, 12288, device="meta", dtype=torch.bfloat16)
    return Inputs(latent(), torch.ones(1, device="meta"), context, [latent() for _ in range(count)])


def flops() -> Iterator[Row]:
    """Of 4 steps at 1024x1024 with references of 1024x1024, counted on the meta device."""
    model = klein_9b("meta", torch.bfloat16)
    with torch.inference_mode():
        for count in REFERENCES:
            given = meta_inputs(count)
            yield row("no cache", count, _counted(_no_cache, model, given) / TERA, "TF")
            yield row("stock FluxKVCache", count, _counted(_stock_cache, model, given) / TERA, "TF")
            cold, warm = _our_flops(model, given)
            yield row("ours, cold", count, cold / TERA, "TF", COLD_LIMIT[count])
            yield row("ours, warm", count, warm / TERA, "TF", WARM_LIMIT[count])


def _meta_attention(_: object, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The host's choice for a processor asks how much memory is free, which the meta device cannot say."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


def _counted(work: Callable[..., object], *arguments: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work(*arguments)
    return counter.get_total_flops()


def _no_cache(model: Any, given: Inputs) -> None:
    for _ in range(STEPS):
        given.ask(model, {"optimized_attention_override": _meta_attention})


def _stock_cache(model: Any, given: Inputs) -> None:
    """As the stock node patches a model."""
    from comfy_extras.nodes_flux import KV_Attn_Input

    cache = KV_Attn_Input()

    def drop_references(args: dict[str, Any]) -> dict[str, Any]:
        tokens = sum(args["transformer_options"].get("reference_image_num_tokens", []))
        if cache.cache and tokens:
            args["img"] = args["img"][:, :-tokens]
        return args

    for _ in range(STEPS):
        patches = {"attn1_patch": [cache], "post_input": [drop_references]}
        options = {"patches": patches, "optimized_attention_override": _meta_attention}
        given.ask(model, options, ref_latents_method="index_timestep_zero")


def _our_flops(model: Any, given: Inputs) -> tuple[int, int]:
    """Cold and warm. Meta tensors have no content to look up by, so the two passes are counted by themselves."""
    from klein9b.klein.kv_cache import ReferenceRows
    from klein9b.klein.kv_pass import reference_keys_values
    from klein9b.klein.kv_store import ReferenceStore, Storage
    from klein9b.nodes.host.block_functions import host_functions
    from klein9b.nodes.host.cache_blocks import References, own_places

    plain = {"optimized_attention_override": _meta_attention}
    store = ReferenceStore(torch.device("meta"))
    parts = [model.process_img(r, index=10.0 * (i + 1)) for i, r in enumerate(given.references)]
    tokens, ids = (torch.cat(part, dim=1) for part in zip(*parts))

    def reference_pass() -> None:
        pairs = reference_keys_values(model, tokens, ids, host_functions(plain))
        store.add("bench", pairs, Storage.MODEL, torch.bfloat16)

    def steps() -> None:
        for _ in range(STEPS):
            rows = ReferenceRows(store, [store.find("bench")])
            references = References(model, rows, own_places(model, plain, all_of_them=False))
            given._replace(references=None).ask(model, references.options(model, plain))

    first, warm = _counted(reference_pass), _counted(steps)
    return first + warm, warm


def storages(device: str) -> Iterator[Row]:
    """What one megapixel of reference takes, what comes back of normal keys, and how long a block's pair takes."""
    from klein9b.klein.kv_store import Storage, bytes_per_token

    model = klein_9b("meta", torch.bfloat16)
    key = normal(1, model.num_heads, GRID * GRID, 128, seed=1).to(device, torch.bfloat16)
    for storage in Storage:
        size = GRID * GRID * bytes_per_token(model, storage, torch.bfloat16) / 2**30
        kept = storage.pack((key, key))
        back, _ = storage.unpack(kept, torch.bfloat16)
        error = float((back.float() - key.float()).norm() / key.float().norm())
        yield {"name": f"{storage.value}, one megapixel", "value": size, "unit": "GiB", "limit": SIZE_LIMIT[storage]}
        yield {"name": f"{storage.value}, off by", "value": error, "unit": "", "limit": ERROR_LIMIT[storage]}
        ways = (lambda: None, lambda s=storage, k=kept: s.unpack(k, torch.bfloat16))
        milliseconds = 1000 * statistics.median(_timed(ways, "", {}) for _ in range(5))
        yield {
            "name": f"{storage.value}, unpacked in a block, {device}",
            "value": milliseconds,
            "unit": "ms",
            "limit": None,
        }


def random_model(device: str, dtype: torch.dtype, **shape: int) -> Any:
    """A MODEL of the host with random weights of std 1/sqrt(fan_in), made on the device they are for."""
    import comfy.sd

    weights = {
        name: torch.ones(t.shape, device=device, dtype=dtype)
        if t.ndim == 1
        else torch.randn(t.shape, device=device, dtype=dtype) / t.shape[1] ** 0.5
        for name, t in klein_9b("meta", dtype, **shape).state_dict().items()
    }
    return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})


def wall_time_on_cpu(rounds: int) -> Iterator[Row]:
    """One whole run through the host at a size where matrix products dominate: 256 wide, 256 tokens an image."""
    yield from wall_time(random_model("cpu", torch.float32, hidden=256, doubles=2, singles=4), 16, rounds, "CPU")


def wall_time_on_gpu(rounds: int) -> Iterator[Row]:
    """The same at 9B's own shapes in bfloat16, 1024x1024."""
    yield from wall_time(random_model("cuda", torch.bfloat16), GRID, rounds, torch.cuda.get_device_name())


def wall_time(model: Any, grid: int, rounds: int, device: str) -> Iterator[Row]:
    """Median seconds of each way to run, interleaved and in alternating order, after one run of each."""
    for count in REFERENCES:
        ways = ways_to_run(model, grid, count)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        peaks: dict[str, int] = {}
        for turn in range(rounds + 1):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                seconds[name].append(_timed(ways[name], name, peaks))
        medians = {name: statistics.median(measured[1:]) for name, measured in seconds.items()}
        yield from (row(f"{name}, {device}", count, value, "s") for name, value in medians.items())
        yield from (row(f"{name}, {device}", count, peak / 2**30, "GiB peak") for name, peak in peaks.items())
        for ours in OURS:
            for other in OTHERS:
                yield row(f"{ours} against {other}, {device}", count, medians[other] / medians[ours], "x")


def ways_to_run(model: Any, grid: int, count: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Name -> what comes before the clock starts, and what is timed."""
    from comfy_extras.nodes_flux import FluxKVCache

    references = [normal(1, 128, grid, grid, seed=i) for i in range(count)]
    noise = normal(1, 128, grid, grid, seed=99)
    (stock,) = FluxKVCache.execute(model).args
    ours, _ = cached(model)

    def run(which: Any, steps: int = STEPS) -> Callable[[], object]:
        return lambda: edit(which, references, noise=noise, steps=steps)

    return {
        "no cache": (lambda: None, run(model)),
        "stock FluxKVCache": (lambda: None, run(stock)),
        "ours, cold": (lambda: forget(ours), run(ours)),
        "ours, warm": (run(ours, 1), run(ours)),
    }


def _timed(way: tuple[Callable[[], object], Callable[[], object]], name: str, peaks: dict[str, int]) -> float:
    prepare, work = way
    prepare()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        peaks[name] = torch.cuda.max_memory_allocated()
    return time.perf_counter() - started
