"""The face of remote/: what it exports has a reader, and it refuses before it opens anything."""

import ast
import asyncio

import pytest
from lanes import account_of

from host.checkout import PACK
from klein9b.remote import service
from klein9b.remote.errors import NOTHING_SENT, BadInput


def read_by_the_nodes():
    """The names of the face that stand in the code of nodes/, not in its docstrings."""
    trees = [ast.parse(path.read_text()) for path in (PACK / "nodes").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    attributes = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "service"
    }
    return imported | attributes


def test_the_nodes_read_every_name_of_it():
    assert set(service.__all__) <= read_by_the_nodes()
    assert all(hasattr(service, name) for name in service.__all__)


@pytest.mark.parametrize("name", ["", "short", "a/b/c/d/e", "n" * 65, "request-1\n"])
def test_a_name_that_no_job_has_is_refused_before_anything_is_opened(fake, tmp_path, name):
    folder = tmp_path / "not made"
    with pytest.raises(BadInput, match="is not a request_id") as said:
        service.kept_picture(name, folder)
    with pytest.raises(BadInput, match="is not a request_id"):
        asyncio.run(service.recover(account_of(fake, folder), name))
    assert said.value.money == NOTHING_SENT and not folder.exists() and not fake.requests
