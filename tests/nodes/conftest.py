"""The real ComfyUI in this process."""

import pytest

from host.checkout import HOW_TO_GET_ONE, find_checkout
from host.inprocess import enter


@pytest.fixture(scope="session", autouse=True)
def comfy_host():
    checkout = find_checkout()
    if checkout is None:
        pytest.skip(HOW_TO_GET_ONE)
    enter(checkout)
    return checkout
