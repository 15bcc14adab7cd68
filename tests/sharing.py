"""Which tests stay together when several processes share the suite: a browser's, and those of one file."""

from __future__ import annotations

import pytest

# The longest groups begin first, so that no process is left with one at the end.
BROWSER = "browser"


class Sharing:
    def pytest_collection_modifyitems(self, items) -> None:
        for item in items:
            item.add_marker(pytest.mark.xdist_group(group_of(item)))
        items.sort(key=lambda item: not group_of(item).startswith(BROWSER))


def group_of(item) -> str:
    """A name for all tests of one frontend's browser and host, or of one file."""
    frontend = getattr(item, "callspec", None) and item.callspec.params.get("comfy")
    return f"{BROWSER} {frontend}" if frontend else str(item.path)
