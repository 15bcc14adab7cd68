"""Counts what a forward launches and the bytes that its passes over activations read and write, on the meta device.

Every operation that is no view reads its inputs once and writes its outputs once. Matrix products and attention are
launches and no passes, but for the pass in which an int8 layer makes its input int8 itself. An op that the blocks
borrow (kernels/ops.py) is one launch, as its kernel is; the host's rms norm is a card's one kernel behind a copy of a
strided input, and its rotation of queries and keys is one kernel, as comfy_kitchen has it. What a card's caches keep on
the chip is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from klein9b.kernels.ops import Ops

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_int_mm", "_scaled_mm", "linear"}
MADE_OF_NOTHING = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "lift_fresh", "detach"}


class Traffic(TorchDispatchMode):
    """Attributes:
    launches: of every kind.
    passes: those over activations.
    bytes: read and written by passes.
    is_within_a_kernel: whatever happens is counted already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()
        self.is_within_a_kernel = False

    def forget(self) -> None:
        """Counts from nothing again."""
        self.launches = 0
        self.passes = 0
        self.bytes = 0
        self.by_name: dict[str, tuple[int, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if any(map(is_container, tensors((args, kwargs)))):
            self.count_of_a_container(name, args)
        elif not (self.is_within_a_kernel or name in MADE_OF_NOTHING or _is_view(func, (args, kwargs), result)):
            self.count(name, (args, kwargs), result)
        return result

    def count(self, name: str, given: Any, result: Any) -> None:
        """One launch."""
        self.launches += 1
        if name in PRODUCTS:
            return
        self.passed(name, sum(nbytes(one) for one in (*tensors(given), *tensors(result))))

    def count_of_a_container(self, name: str, args: Any) -> None:
        """The host keeps a quantised matrix in one, and what it does to that is nothing on a card but the product."""
        if name not in PRODUCTS:
            return
        self.launches += 1
        x = args[0]
        if not is_container(x):
            self.launches += 1
            self.passed("quantize", nbytes(x) + x.numel() + 4 * x.numel() // x.shape[-1])

    def passed(self, name: str, moved: int) -> None:
        """One pass over activations."""
        self.passes += 1
        self.bytes += moved
        count, total = self.by_name.get(name, (0, 0))
        self.by_name[name] = count + 1, total + moved

    @contextmanager
    def one_kernel(self) -> Iterator[None]:
        """What happens within is counted by whoever opens it."""
        before, self.is_within_a_kernel = self.is_within_a_kernel, True
        try:
            yield
        finally:
            self.is_within_a_kernel = before


def is_container(tensor: Tensor) -> bool:
    """Whether it is the host's QuantizedTensor."""
    return hasattr(tensor, "_qdata")


def _is_view(func: Any, given: Any, result: Any) -> bool:
    storages = {one.untyped_storage()._cdata for one in tensors(given)}
    return not func._schema.is_mutable and all(t.untyped_storage()._cdata in storages for t in tensors(result))


def nbytes(tensor: Tensor) -> int:
    """Of the elements that differ: a row spread over a batch is read once."""
    return tensor.element_size() * torch.Size(n for n, s in zip(tensor.shape, tensor.stride()) if s).numel()


def tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


class HostKernels(TorchFunctionMode):
    """The host's rms norms as one kernel each."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (torch.rms_norm, torch.nn.functional.rms_norm) or self.traffic.is_within_a_kernel:
            return func(*args, **(kwargs or {}))
        x = args[0].contiguous()
        with self.traffic.one_kernel():
            out = torch.empty_like(x)
        self.traffic.count("rms_norm", x, out)
        return out


def rotated(traffic: Traffic) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Queries and keys as comfy_kitchen's one kernel rotates them."""

    def apply_rope(q: Tensor, k: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(q, memory_format=torch.contiguous_format), torch.empty_like(k)
        traffic.count("apply_rope", (q, k, freqs), out)
        return out

    return apply_rope


def attending(traffic: Traffic) -> Callable[..., Tensor]:
    """An attention override: one launch, which makes its output."""

    def attend(_: Any, q: Any, k: Any, v: Any, heads: int, *args: Any, **options: Any) -> Tensor:
        q, _, _ = (one if isinstance(one, Tensor) else one.take() for one in (q, k, v))
        traffic.launches += 1
        return q.new_empty(q.shape[0], q.shape[2], heads * q.shape[3])

    return attend


def kernels(traffic: Traffic, ops: Ops) -> Ops:
    """The same ops, each one launch."""

    def counted(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with traffic.one_kernel():
                result = op(*args, **kwargs)
            traffic.launches += 1
            traffic.passed(name, MOVED[name](result, *args, **kwargs))
            return result

        return call

    def counted_product(product: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with traffic.one_kernel():
                result = product(*args)
            traffic.launches += 1
            return result

        return call

    def all_counted(ops: Any) -> Any:
        every = {one.name: getattr(ops, one.name) for one in fields(ops)}
        return replace(ops, **{name: counted(name, op) for name, op in every.items() if name in MOVED})

    int8 = ops.int8 and replace(all_counted(ops.int8), linear=counted_product(ops.int8.linear))
    return replace(all_counted(ops), int8=int8, fp8=ops.fp8 and all_counted(ops.fp8))


def _all(result: Any, *args: Any) -> int:
    """Every argument read and the result written."""
    return sum(map(nbytes, _flat((result, args))))


def _and_x(result: Any, x: Tensor, *args: Any) -> int:
    """x is written too."""
    return nbytes(x) + _all(result, x, *args)


def _heads(result: Any, packed: Tensor, norms: Any, freqs: Tensor, heads: int, *, out: Any = None) -> int:
    """A part that nothing is done to stays where it is."""
    targets = out or [None] * len(norms)
    touched = [part for part, norm, target in zip(result, norms, targets) if norm or target is not None]
    return 2 * sum(map(nbytes, touched)) + nbytes(freqs)


def _written(result: None, key: Tensor, value: Tensor, appended: Any) -> int:
    return sum(map(nbytes, (key, value, *appended)))


MOVED: dict[str, Callable[..., int]] = {
    "layer_norm_modulate": _all,
    "gated_residual_": _all,
    "gated_residual_norm_": _and_x,
    "heads_norm_rope": _heads,
    "swiglu_concat": _all,
    "write_kv_": _written,
    "write_kv_int8_": _written,
}


def _flat(tree: Any) -> list[Tensor]:
    """The tensors in it, those of frozen values too."""
    leaves = tree_leaves(tree)
    inner = [getattr(one, f.name) for one in leaves if is_dataclass(one) for f in fields(one)]
    return tensors(leaves) + (_flat(inner) if inner else [])
