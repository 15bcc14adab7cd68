"""What Segmind Remote shows at first sight, in both frontends and both drawings, and that the rest is a click away."""

import pytest

pytestmark = pytest.mark.host

AT_FIRST = {"seed", "cfg", "steps", "aspect_ratio", "count"}
FOLDED = {"sampler", "go_fast", "image_format", "quality", "timeout_s", "on_item_error", "max_cost_usd", "reuse"}


def test_what_is_seldom_changed_is_folded(page, drawing):
    remote = page("placeNode", type="SegmindRemote", x=100, y=100)
    seen = page("writtenOn", id=remote)
    page.screenshot(f"remote folded {drawing}")
    assert set(seen) >= AT_FIRST and not FOLDED & set(seen), seen
    page("unfold", id=remote)
    seen = page("writtenOn", id=remote)
    page.screenshot(f"remote unfolded {drawing}")
    assert set(seen) >= AT_FIRST | FOLDED, seen
