"""Triton's interpreter stands in for a GPU where there is none. Its variable counts before triton is imported."""

import os
import shutil

VARIABLE = "TRITON_INTERPRET"


def prefer():
    """Of this process and its children, unless somebody has decided otherwise."""
    if shutil.which("nvidia-smi") is None:
        os.environ.setdefault(VARIABLE, "1")


def chosen():
    return os.environ.get(VARIABLE) == "1"


def round_float8():
    """Has the interpreter convert to float8_e4m3fn as a card does, to the nearest.

    Its own conversion truncates what is below 2^-6, and loses the carry where a mantissa is rounded up to the next
    power of two, up to Triton 3.9 at least.
    """
    import torch
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    convert = InterpreterBuilder.create_fp_to_fp

    def create_fp_to_fp(builder, src, dst_type, rounding_mode):
        if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.float8e4nv):
            return convert(builder, src, dst_type, rounding_mode)
        rounded = torch.from_numpy(src.data).to(torch.float8_e4m3fn)
        return TensorHandle(rounded.view(torch.uint8).numpy(), dst_type.scalar)

    InterpreterBuilder.create_fp_to_fp = create_fp_to_fp
