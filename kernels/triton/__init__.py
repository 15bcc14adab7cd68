"""Ops in Triton, for CUDA cards: each file holds the faster twins of the one of its name in kernels/eager."""

try:
    import triton as _triton  # noqa: F401
except ImportError as missing:
    raise ImportError(
        "Klein's Triton kernels need the package triton, which is not installed: pip install triton on Linux, or "
        "triton-windows on Windows."
    ) from missing
