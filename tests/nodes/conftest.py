"""The real ComfyUI in this process."""

import pytest

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
