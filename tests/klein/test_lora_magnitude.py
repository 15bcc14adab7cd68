"""Magnitudes and directions of a weight."""

import pytest
import torch

from klein9b.klein.lora_magnitude import decomposed


@pytest.mark.parametrize(("size", "along"), [((5, 1), 1), ((1, 3), 0), ((1, 1), 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_norms_are_the_magnitudes_and_its_directions_stay(size, along, dtype):
    rows, columns = (1, 3) if size == (1, 1) else (5, 3)
    generator = torch.Generator().manual_seed(0)
    merged = torch.randn(rows, columns, generator=generator).to(dtype)
    magnitude = torch.rand(size, generator=generator) + 0.5
    found = decomposed(merged, magnitude)
    assert found.dtype == dtype
    near = {"rtol": 1e-6, "atol": 0} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 0}
    torch.testing.assert_close(found.float().norm(dim=along, keepdim=True), magnitude, **near)
    cosine = torch.cosine_similarity(found.float(), merged.float(), dim=along)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-3, atol=0)


def test_a_row_of_zeros_stays_one():
    assert not decomposed(torch.zeros(2, 3), torch.ones(2, 1)).any()
