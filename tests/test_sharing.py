"""A browser's tests stay in one process, and so do a file's."""

import pytest
from sharing import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/browser/test_run.py::test_run_shows_the_picture[pinned-classic]", "browser pinned"),
        ("tests/browser/test_templates.py::TestWithoutModels::test_it_lists[newest-Klein 9B]", "browser newest"),
        ("tests/browser/test_library.py::test_every_node_is_looked_for[newest]", "browser newest"),
        ("tests/browser/test_first_run.py::test_from_the_installer", "tests/browser/test_first_run.py"),
        ("tests/klein/test_variant.py::test_names[newest-flux]", "tests/klein/test_variant.py"),
    ],
)
def test_groups(nodeid, group):
    assert group_of(nodeid) == group
