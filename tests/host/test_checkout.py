"""A ComfyUI is found where people have it, and what is none is named in one sentence."""

import subprocess
import sys

import pytest

from host import checkout
from host.checkout import FILES, NoHost, NotWanted, WrongPath, find_checkout, why_unusable


def comfyui(folder, version="0.33.0", without=()):
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name not in without:
            path.write_text(f'__version__ = "{version}"\n' if name == "comfyui_version.py" else "")
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty home, nothing fetched, nothing named."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(checkout, "FETCHED", tmp_path / "build" / "ComfyUI")
    monkeypatch.setattr(checkout, "PACK", tmp_path / "pack")
    return tmp_path


def test_an_empty_machine_has_none(machine):
    with pytest.raises(NoHost, match="No ComfyUI: clone one to ~/ComfyUI or name its folder in COMFYUI_PATH"):
        find_checkout()


def test_the_named_one_comes_first_then_home_then_the_fetched(machine, monkeypatch):
    places = [comfyui(machine / name) for name in ("elsewhere", "home/ComfyUI", "build/ComfyUI")]
    monkeypatch.setenv("COMFYUI_PATH", str(places[0]))
    assert find_checkout() == places[0].resolve()
    monkeypatch.delenv("COMFYUI_PATH")
    assert find_checkout() == places[1].resolve()
    (places[1] / "main.py").unlink()
    assert find_checkout() == places[2].resolve()


def test_inside_custom_nodes_the_folder_above_is_it(machine, monkeypatch):
    above = comfyui(machine / "ComfyUI")
    comfyui(machine / "home" / "ComfyUI")
    monkeypatch.setattr(checkout, "PACK", above / "custom_nodes" / "klein9b")
    assert find_checkout() == above.resolve()


def test_none_is_a_wish(machine, monkeypatch):
    comfyui(machine / "home" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", "none")
    with pytest.raises(NotWanted, match="what needs ComfyUI is left out"):
        find_checkout()


@pytest.mark.parametrize("missing", FILES)
def test_a_named_folder_that_is_none_is_a_mistake(machine, monkeypatch, missing):
    folder = comfyui(machine / "elsewhere", without=[missing])
    comfyui(machine / "home" / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    with pytest.raises(
        WrongPath, match=f"COMFYUI_PATH is .*elsewhere, but .*{missing} is missing. Correct it, or unset"
    ):
        find_checkout()


@pytest.mark.parametrize(("version", "good"), [("0.28.9", False), ("0.3.71", False), ("0.29.0", True), ("1.0.0", True)])
def test_versions_are_compared_as_numbers(tmp_path, version, good):
    reason = why_unusable(comfyui(tmp_path, version))
    assert good == (not reason)
    assert good or reason == f"it is ComfyUI {version} and the pack needs 0.29 or newer"


def test_an_old_one_at_home_is_passed_over_aloud(machine):
    comfyui(machine / "home" / "ComfyUI", "0.20.1")
    with pytest.raises(NoHost, match=r"ComfyUI was passed over: it is ComfyUI 0\.20\.1 and the pack needs 0\.29"):
        find_checkout()


def test_pytest_stops_at_a_mistaken_path(tmp_path):
    command = [sys.executable, "-m", "pytest", "--collect-only", __file__]
    answer = subprocess.run(command, env={"COMFYUI_PATH": str(tmp_path)}, capture_output=True, text=True, timeout=120)
    assert answer.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: COMFYUI_PATH is {tmp_path}, but it is no ComfyUI" in answer.stderr
