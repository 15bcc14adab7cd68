"""The real ComfyUI in this process."""

import pytest

from host.inprocess import enter


@pytest.fixture(scope="session", autouse=True)
def comfy_host(checkout):
    enter(checkout)
    return checkout
