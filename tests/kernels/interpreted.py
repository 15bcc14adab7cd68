"""Every Triton rung of the real table against its eager twin in Triton's interpreter, one JSON line for each.

Usage: TRITON_INTERPRET=1 interpreted.py DTYPE   (Triton reads that when it is imported: this process is made for it)
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    from pack import importable

    importable()
    import torch
    from interpreter import round_float8

    from klein9b.kernels.rungs import RUNGS
    from klein9b.kernels.samples import CASES
    from klein9b.kernels.self_check import self_check

    round_float8()
    cpu, dtype = torch.device("cpu"), getattr(torch, sys.argv[1])
    for rung in (rung for rung in RUNGS if rung.backend == "triton"):
        for exact in (True, False):
            verdict = self_check(rung.op, rung.load(exact), CASES[rung.op].eager, cpu, dtype, mirrored=exact)
            print(json.dumps([rung.op, exact, verdict.passed, verdict.words]), flush=True)


if __name__ == "__main__":
    main()
