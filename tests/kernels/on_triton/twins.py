"""Where the twins run, on what, and how near they are to eager: a GPU, or Triton's interpreter.

The interpreter truncates to bfloat16 where a card rounds, so that bfloat16 is of a GPU alone. Shares of equal bits are
of the interpreter alone: on a card torch's own kernels add up in another order.
"""

import interpreter
import torch

if interpreter.chosen():
    interpreter.round_float8()

DEVICE = "cpu" if interpreter.chosen() else "cuda"
DTYPES = [torch.float16, torch.float32, *([torch.bfloat16] if DEVICE == "cuda" else [])]
HALF = torch.float16
# As exp, rsqrt and sums of thousands of numbers in another order are off in float32.
FLOAT32 = 2.0**-20


def drawn(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(DEVICE, dtype)


def share(got, wanted):
    return (got == wanted).float().mean().item() if got.numel() else 1.0


def agree(got, wanted, *, equal=0.0, roundings=2):
    """As near as so many halves of a last place of the largest number, and that share of equal ones."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    assert torch.isfinite(got).all()
    if got.numel():
        step = torch.finfo(got.dtype).eps / 2 * roundings + FLOAT32
        assert (got.double() - wanted.double()).abs().max() <= step * wanted.double().abs().max()
    if DEVICE == "cpu":
        assert share(got, wanted) >= equal


def fp8_inputs(scale=0.037):
    from klein9b.kernels.fp8 import Fp8Input

    return [Fp8Input(torch.tensor(scale, device=DEVICE), rounded) for rounded in (False, True)]


def agree_fp8(got, wanted, *, equal=0.999):
    """No code is off by more than one step, and hardly any by that."""
    assert got.dtype == wanted.dtype and torch.equal(got.scale, wanted.scale)
    assert got.levels.dtype == torch.float8_e4m3fn and got.levels.shape == wanted.levels.shape
    value = wanted.levels.float()
    assert ((got.levels.float() - value).abs() <= (value.abs() / 8).clamp(min=2**-9)).all()
    if DEVICE == "cpu":
        assert share(got.levels.view(torch.uint8), wanted.levels.view(torch.uint8)) >= equal


def agree_int8(got, wanted, *, equal=0.999, of=torch.float32):
    """No level is off by more than one, and hardly any by that; scales are as near as largest numbers of that dtype."""
    assert got.rotation == wanted.rotation and got.levels.dtype == torch.int8
    assert got.levels.shape == wanted.levels.shape
    assert got.levels.numel() == 0 or (got.levels.int() - wanted.levels.int()).abs().max() <= 1
    assert ((got.scale - wanted.scale).abs() <= (torch.finfo(of).eps + FLOAT32) * wanted.scale).all()
    if DEVICE == "cpu":
        assert share(got.levels, wanted.levels) >= equal


class Room:
    """A larger buffer full of a number that no op makes, of which a view is the op's: the rest must stay as it is."""

    def __init__(self, *shape, dtype=torch.float32, fill=float("nan")):
        self.buffer = torch.full(shape, fill, dtype=dtype, device=DEVICE)
        self._before = self.buffer.clone()

    def only_within(self, inside):
        """Whether nothing but the view changed."""
        inside.copy_(torch.zeros_like(inside))
        self._before.as_strided(inside.shape, inside.stride(), inside.storage_offset()).zero_()
        return torch.equal(self.buffer.nan_to_num(7.0), self._before.nan_to_num(7.0))
