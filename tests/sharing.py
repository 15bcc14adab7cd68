"""What several processes that share the suite keep together: a browser's tests, and those of one file."""

from __future__ import annotations

import os
import re

import pytest

BROWSER = re.compile(r"tests/browser/.*\[(pinned|newest)\b")


class Sharing:
    """The longest groups begin first, so that no process is left with one at the end."""

    def pytest_configure(self) -> None:
        """Before torch is imported: threads that fight for cores only slow each other down."""
        processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
        if processes > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

    def pytest_collection_modifyitems(self, items) -> None:
        items.sort(key=lambda item: not BROWSER.match(item.nodeid))

    @pytest.hookimpl(optionalhook=True)  # of pytest-xdist
    def pytest_xdist_make_scheduler(self, config, log):
        from xdist.scheduler import LoadScopeScheduling

        class Groups(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return group_of(nodeid)

        return Groups(config, log)


def group_of(nodeid: str) -> str:
    """A name for all tests of one frontend's browser and host, or of one file."""
    frontend = BROWSER.match(nodeid)
    return f"browser {frontend[1]}" if frontend else nodeid.split("::")[0]
