"""Compiles every kernel that the table of implementations names for one kind of card, without a card.

Triton's own launch does all but launch: what it is told of is the card. The ops are called on meta tensors of the
self-check's samples, which have Klein's widths and strides; the int8 product also with as many rows as its other tiles
are for. Prints a JSON list, an object a kernel.

Usage: compiling.py CAPABILITY exact|fast DTYPE...   such as 89 exact bfloat16 float16
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pack

pack.importable()

from klein9b.kernels import samples  # noqa: E402
from klein9b.kernels.eager.int8_rows import int8_rows  # noqa: E402
from klein9b.kernels.int8 import Int8Weight  # noqa: E402
from klein9b.kernels.rungs import RUNGS  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
ROWS = (16, 4608)
OUT_FEATURES = 36864


class Card:
    """What Triton asks its driver before it compiles."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Compiled:
    """What was compiled so far, in place of being launched.

    Attributes:
        about: what is being called.
    """

    def __init__(self):
        self.kernels = {}
        self.about = None
        run = JITFunction.run
        JITFunction.run = lambda kernel, *given, grid, warmup, **options: self.keep(
            kernel, run(kernel, *given, grid=grid, warmup=True, **options)
        )

    def keep(self, kernel, made):
        self.kernels[made.hash] = (self.about, kernel.fn.__module__, kernel.fn.__name__, made)


def call(op, run, dtype):
    run(op, samples.Samples(torch.device("meta"), dtype))
    if getattr(op, "func", op).__name__ == "int8_linear":
        for rows in ROWS:
            sides = (torch.empty(1, size, samples.HIDDEN, dtype=dtype, device="meta") for size in (rows, OUT_FEATURES))
            activations, matrix = (int8_rows(side, 256) for side in sides)
            op(activations, Int8Weight(matrix.levels[0], matrix.scale[0], 256), dtype)


def usage(cubin):
    """Registers a thread, and bytes of its stack, which is what did not fit them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return [int(number) for number in USAGE.search(said).groups()]


def described(about, module, name, made):
    registers, stack = usage(made.asm["cubin"])
    return about | {
        "kernel": f"{module.split('.')[-1]}.{name}",
        "shared": made.metadata.shared,
        "warps": made.metadata.num_warps,
        "fusion": made.metadata.enable_fp_fusion,
        "target": re.search(r"\.target (\w+)", made.asm["ptx"])[1],
        "cubin": len(made.asm["cubin"]),
        "registers": registers,
        "stack": stack,
    }


def main(capability, exact, dtypes):
    samples.ROTATIONS = (256,)
    driver.set_active(Card(capability))
    compiled = Compiled()
    for rung, dtype in product(RUNGS, dtypes):
        if rung.backend == "triton" and rung.needs.capability[dtype] <= divmod(capability, 10):
            compiled.about = {"op": rung.op, "dtype": str(dtype)}
            call(rung.load(exact), samples.CASES[rung.op].run, dtype)
    sys.stdout.write(json.dumps([described(*kernel) for kernel in compiled.kernels.values()]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "exact", [getattr(torch, name) for name in sys.argv[3:]])
