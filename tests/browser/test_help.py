"""Each node's help page, in the panel that its info button opens."""

import pytest

from host.checkout import PACK

pytestmark = pytest.mark.host

DOCS = PACK / "nodes" / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def headings(markdown):
    return [line.lstrip("# ") for line in markdown.splitlines() if line.startswith(("# ", "## "))]


@pytest.mark.parametrize("source", PAGES, ids=lambda source: source.stem)
def test_it_is_shown(page, source):
    text = source.read_text(encoding="utf-8")
    shown = page("openHelp", type=source.stem)
    page.screenshot(f"help {source.stem}")
    assert [one.lower() for one in shown["headings"]] == [one.lower() for one in headings(text)]
    assert "|--" not in shown["text"] and "**" not in shown["text"]
    assert len(shown["pictures"]) == text.count("![")
    assert all(width > 0 for width in shown["pictures"])


@pytest.mark.parametrize("source", PAGES, ids=lambda source: source.stem)
def test_it_fits_the_panel(page, source):
    assert page("openHelp", type=source.stem)["overflow"] == []
