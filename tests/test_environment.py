"""What make prepares before it runs anything, with pip played by a program that notes what it is asked."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment
import pytest
from environment import Environment, NotReady

TESTS = Path(__file__).resolve().parent
PIP = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *import*) echo 2.13.0;; esac
exit {code}
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """An environment whose python only notes its arguments."""
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    made = Environment(folder)

    def python(code=0):
        made.python.write_text(PIP.format(log=tmp_path / "asked", code=code))
        made.python.chmod(0o755)
        return made

    return python


def asked(tmp_path):
    return (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []


def requirements(tmp_path, text="httpx\n"):
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return path


def test_it_installs_once_for_the_same_files(tools, tmp_path):
    files = [requirements(tmp_path)]
    tools().install(files)
    first = asked(tmp_path)
    assert first[-1].endswith(f"--requirement {files[0]}")
    tools().install(files)
    assert asked(tmp_path) == first


def test_a_changed_file_is_installed_again(tools, tmp_path):
    tools().install([requirements(tmp_path)])
    first = asked(tmp_path)
    tools().install([requirements(tmp_path, "httpx>=0.28\n")])
    assert len(asked(tmp_path)) > len(first)


def test_a_failed_install_is_a_sentence_and_tried_again(tools, tmp_path):
    files = [requirements(tmp_path)]
    with pytest.raises(NotReady, match="pip could not install .*requirements.txt: see its words above"):
        tools(code=1).install(files)
    assert not tools().holds(files)


def run(python=sys.executable, *, home, **variables):
    command = [python, TESTS / "environment.py", home / ".venv"]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)


def test_a_mistaken_comfyui_path_stops_it_before_it_installs(tmp_path):
    answer = run(home=tmp_path, COMFYUI_PATH=str(tmp_path))
    assert answer.returncode == 1 and not (tmp_path / ".venv").exists()
    assert answer.stderr.startswith(f"[setup] COMFYUI_PATH is {tmp_path}, but it is no ComfyUI")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_an_old_python_is_told(version):
    numbers = tuple(map(int, version.split(".")))
    with pytest.raises(NotReady, match=f"this is Python {version} and the pack needs 3.10 or newer: make test PYTHON="):
        environment.require_python((*numbers, 18))


def test_an_old_python_can_read_what_tells_it():
    for path in (TESTS / "environment.py", TESTS / "host" / "checkout.py", TESTS / "host" / "fetch.py"):
        ast.parse(path.read_text(), feature_version=(3, 9))


def test_a_python_without_venv_is_told(tmp_path, monkeypatch):
    def without_ensurepip(*_, **__):
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr("venv.create", without_ensurepip)
    with pytest.raises(NotReady, match="apt-get install python3-venv"):
        environment.create(tmp_path / ".venv")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make: install it to run make test")
def test_every_command_prepares_it_first():
    for target in ("test", "demo", "bench"):
        command = ["make", "--no-print-directory", "--dry-run", target]
        plan = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True).stdout
        assert "tests/environment.py" in plan.splitlines()[0]
