"""comfy-cli's part is played by programs that do what it does on good and bad days."""

import sys
import textwrap

import pytest

from host import fetch as module
from host.checkout import FILES, why_unusable
from host.fetch import NotFetched, fetch

CLONES = f"""
    import pathlib, sys
    folder = pathlib.Path(sys.argv[sys.argv.index("--workspace") + 1])
    for name in {FILES!r}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('__version__ = "0.29.0"')
"""
STOPS_HALF_WAY = CLONES + "    (folder / 'comfy' / 'sd.py').unlink()\n"
HAS_NO_NETWORK = """
    import sys
    sys.exit("Cloning\\nfatal: unable to access: Could not resolve host\\nand a traceback")
"""
HANGS = CLONES + "    import time; time.sleep(60)\n"


@pytest.fixture
def comfy(tmp_path):
    def program(text):
        path = tmp_path / "comfy"
        path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
        path.chmod(0o755)
        return path

    return program


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "build" / "ComfyUI"


def attempt(comfy, folder, **limits):
    said = []
    try:
        return fetch(comfy, said.append, folder=folder, **limits), said
    except NotFetched as reason:
        return str(reason), said


def leftovers(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def test_a_whole_one_arrives_and_it_was_said(comfy, folder):
    got, said = attempt(comfy(CLONES), folder)
    assert got == folder and not why_unusable(folder)
    assert said[0].endswith(f"into {folder}, for at most 600 s")
    assert leftovers(folder) == ["ComfyUI"]


def test_a_half_finished_one_is_fetched_again(comfy, folder):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    got, _ = attempt(comfy(CLONES), folder)
    assert got == folder and not why_unusable(folder)


@pytest.mark.parametrize(
    ("program", "reason"),
    [(HAS_NO_NETWORK, "fatal: unable to access: Could not resolve host"), (STOPS_HALF_WAY, "comfy-cli ended with 0")],
    ids=["no network", "half a clone"],
)
def test_a_failure_is_one_sentence_and_leaves_nothing(comfy, folder, program, reason):
    got, _ = attempt(comfy(program), folder)
    assert got == f"no ComfyUI could be fetched: {reason}"
    assert leftovers(folder) == []


def test_patience_has_an_end_and_progress_is_said(comfy, folder, monkeypatch):
    monkeypatch.setattr(module, "SAY_EVERY_S", 0.2)
    got, said = attempt(comfy(HANGS), folder, patience_s=1.5)
    assert got == "no ComfyUI could be fetched: comfy-cli did not finish within 2 s"
    assert any(line.startswith("fetching ComfyUI: ") and line.endswith(" MiB") for line in said[1:])
    assert leftovers(folder) == []


def test_without_git_nothing_is_tried(comfy, folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    got, said = attempt(comfy(CLONES), folder)
    assert got == "no ComfyUI could be fetched: there is no git, which comfy-cli needs" and not said
