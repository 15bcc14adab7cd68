"""What a FLUX.2 latent is, and what is none."""

import pytest
import torch

from klein9b.klein.latent import latent_tokens


def test_latent_tokens_are_the_cells_of_the_grid():
    assert latent_tokens(torch.zeros(2, 128, 48, 85).shape) == 48 * 85


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 16, 64, 64), (1, 128, 3, 64, 64), (128, 64, 64)])
def test_a_latent_of_another_model_is_refused(shape):
    with pytest.raises(ValueError, match=r"This latent is \[.*\], but FLUX.2 works on \[batch, 128,"):
        latent_tokens(shape)
