"""A stack of patches is known again by its contents, and by nothing less."""

from types import SimpleNamespace

import pytest
import torch


def digest(*offset):
    from klein9b.nodes.host.weight_patches import patches_digest

    patches = {"layer.weight": [(1.0, (torch.ones(2),), 1.0, offset, None)]}
    return patches_digest(SimpleNamespace(patches=patches, patches_uuid=object()))


@pytest.mark.parametrize("other", [(0, 12, 3), (0, 1, 2, 3), (0, 123)])
def test_where_one_value_ends_counts(comfy_host, other):
    assert digest(0, 1, 23) == digest(0, 1, 23) != digest(*other)
