"""The real ComfyUI in this process."""

import os

import pytest
from prompt_encoding import lazy, stock_clip

import standins
from host.inprocess import enter


@pytest.fixture(scope="session", autouse=True)
def comfy_host(checkout):
    enter(checkout)
    return checkout


@pytest.fixture(scope="module")
def models(shrunk, tmp_path_factory):
    """A models folder that the host's folder lists read."""
    import folder_paths

    root = tmp_path_factory.mktemp("models")
    standins.write_models(root)
    kinds = ("diffusion_models", "text_encoders", "vae")
    before = {kind: folder_paths.folder_names_and_paths[kind] for kind in kinds}
    for kind in kinds:
        folder_paths.folder_names_and_paths[kind] = ([str(root / kind)], {".safetensors"})
    yield root
    folder_paths.folder_names_and_paths.update(before)


@pytest.fixture(scope="module")
def shrunk(comfy_host):
    """Lets the host build Qwen3-8B at the stand-in's shape, for one module only."""
    import comfy.text_encoders.llama as llama

    from standins.text_encoder import shrink_qwen3_8b

    before = llama.Qwen3_8BConfig, llama.Qwen3_8B.get_input_embeddings
    shrink_qwen3_8b()
    yield
    llama.Qwen3_8BConfig, llama.Qwen3_8B.get_input_embeddings = before


@pytest.fixture
def prompts_folder(comfy_host, tmp_path):
    """Where encoded prompts are kept, empty; gone with the test."""
    import folder_paths

    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path / "user"))
    yield tmp_path / "user" / "__klein9b" / "prompts"
    folder_paths.set_user_directory(before)


@pytest.fixture(scope="module")
def encoder(models):
    return models / "text_encoders" / standins.TEXT_ENCODER


@pytest.fixture
def opened(monkeypatch, remembered, tokenizer):
    """How often an encoder's file was opened."""
    import comfy.sd
    import comfy.text_encoders.flux

    openings = []
    monkeypatch.setattr(comfy.sd, "load_clip", lambda *a, **k: openings.append(a) or remembered(*a, **k))
    monkeypatch.setattr(comfy.text_encoders.flux, "KleinTokenizer8B", tokenizer)
    return openings


@pytest.fixture(scope="module")
def remembered(shrunk):
    """The host's load_clip, which reads a file once for the whole module: nothing here writes into its weights."""
    import comfy.sd

    load, kept = comfy.sd.load_clip, {}

    def once(paths, **options):
        key = repr((os.stat(paths[0]), options["model_options"]))
        if key not in kept:
            kept[key] = load(paths, **options)
        return kept[key]

    return once


@pytest.fixture(scope="module")
def tokenizer(comfy_host):
    import functools

    import comfy.text_encoders.flux

    make = functools.cache(lambda: comfy.text_encoders.flux.KleinTokenizer8B(embedding_directory=[]))
    make()
    return lambda **_: make()


@pytest.fixture
def clip(encoder, opened, prompts_folder):
    return lazy(encoder)


@pytest.fixture(scope="module")
def stock(encoder):
    return stock_clip(encoder)


@pytest.fixture
def shown(monkeypatch):
    """The last text under each node."""
    from klein9b.nodes import references, text_encode

    texts = {}
    for module in (text_encode, references):
        monkeypatch.setattr(module, "show_text", lambda node, text: texts.update({node.__name__: text}))
    return texts
