"""A grey picture in every dtype in which a pack may hand one over."""

import numpy as np
import torch

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LEVELS = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *LEVELS]
# How far a quarter may be from 0.25: one level of the coarsest dtypes.
ROUNDING = {torch.uint8: 1 / 255, torch.int8: 1 / 127}
FINE = 1e-3


def grey(dtype: torch.dtype, quarters: int = 1, *, side: int = 4) -> torch.Tensor:
    """(1, side, side, 3) of so many quarters of white."""
    shape = (1, side, side, 3)
    if dtype not in LEVELS:
        return torch.full(shape, quarters / 4, dtype=dtype)
    level = torch.iinfo(dtype).max * quarters // 4
    return torch.from_numpy(np.full(shape, level, str(dtype).removeprefix("torch.")))
