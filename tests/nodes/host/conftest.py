"""What tests of the attention share: a model, its edit, and the log."""

import logging

import pytest

from host.edits import edit, klein_model, reference


@pytest.fixture(scope="module")
def model(comfy_host):
    return klein_model()


@pytest.fixture(scope="module")
def references():
    return [reference(1), reference(2, 4, 8)]


@pytest.fixture(scope="module")
def picture(model, references):
    return edit(model, references)


@pytest.fixture
def choices(comfy_host, monkeypatch):
    """The module, with stand-ins' short sequences long enough and nothing timed yet."""
    import klein9b.nodes.host.attention_choice as module
    from klein9b.klein.attention_timing import FastestAttention

    for kind in (module.Fastest, module.Rounding):
        monkeypatch.setattr(kind, "fewest_keys", 0)
    monkeypatch.setattr(module, "_fastest", FastestAttention())
    return module


@pytest.fixture
def lines(caplog):
    """Of the log, all of them."""
    caplog.set_level(logging.INFO)
    return lambda word="": [line for line in caplog.messages if line.startswith("Klein 9B") and word in line]
