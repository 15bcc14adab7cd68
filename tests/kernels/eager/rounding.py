"""How far an op may be from its formula in float64, in roundings of its own dtype."""

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def drawn(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def roundings(got, wanted):
    """The largest error, in halves of the last place of the largest wanted number."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    step = torch.finfo(got.dtype).eps / 2 * wanted.abs().max()
    return float((got.double() - wanted).abs().max() / step)
