"""What a node says is among its outputs, so that the host sends it again; what it says later is, too."""

import asyncio
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.host


@pytest.fixture
def spoken(comfy_host):
    """A node that says what it is given, made to speak."""
    from comfy_api.v0_0_2 import io

    from klein9b.nodes.host.text import show_text, speaking

    class Spoken(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Spoken", hidden=[io.Hidden.unique_id])

        @classmethod
        def execute(cls, text, ui=None):
            if text:
                show_text(cls, text)
            return io.NodeOutput(1, ui=ui)

    Spoken.hidden = SimpleNamespace(unique_id="7")
    return speaking(Spoken)


def test_its_words_are_beside_what_else_it_shows(spoken):
    picture = SimpleNamespace(as_dict=lambda: {"images": ["one"]})
    assert spoken.execute(text="hello").ui == {"klein9b": [["hello"]]}
    assert spoken.execute(text="hello", ui={"text": ("list",)}).ui == {"text": ("list",), "klein9b": [["hello"]]}
    assert spoken.execute(text="hello", ui=picture).ui == {"images": ["one"], "klein9b": [["hello"]]}


def test_one_that_says_nothing_has_none_from_before(spoken):
    spoken.execute(text="hello")
    assert spoken.execute(text="").ui == {"klein9b": [[]]}


def test_what_it_says_while_a_sampler_runs_is_kept(spoken):
    from klein9b.nodes.host.text import show_text

    output = spoken.execute(text="ready")
    show_text(spoken, "hit: 3 references")
    assert output.ui == {"klein9b": [["hit: 3 references"]]}


def test_it_is_sent_where_it_need_not_run(spoken):
    assert spoken.define_schema().has_intermediate_output


def test_every_node_of_the_pack_speaks_and_those_that_wait_are_awaited(comfy_host):
    from klein9b.nodes import NODES

    assert all(node.GET_SCHEMA().has_intermediate_output for node in NODES)
    awaited = {node.__name__ for node in NODES if asyncio.iscoroutinefunction(node.execute)}
    assert awaited == {"SegmindRemote", "SegmindJobs"}


def test_without_a_client_nobody_reads_it(spoken, monkeypatch):
    """A prompt that a script posted belongs to no page; everyone who watches the host would read it."""
    import server

    sent = []
    running = SimpleNamespace(client_id=None, send_sync=lambda *what: sent.append(what))
    monkeypatch.setattr(server.PromptServer, "instance", running, raising=False)
    spoken.execute(text="hello")
    running.client_id = "a page"
    spoken.execute(text="there")
    assert sent == [("klein9b.said", {"node": "7", "text": "there"}, "a page")]
