"""Node, Playwright and Chromium, found or fetched; and copies of the frontend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from host.checkout import PACK

HERE = Path(__file__).resolve().parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
FRONTENDS = PACK / "build" / "frontends"


class Unavailable(RuntimeError):
    """A tool is missing; the message says how to get it."""


@dataclass(frozen=True)
class Toolchain:
    """Paths of the programs a browser test runs."""

    node: str
    chromium: str


def find_toolchain() -> Toolchain:
    """Finds Node and Chromium, and installs Playwright beside the tests unless PLAYWRIGHT_FOLDER names one."""
    node = shutil.which("node")
    if node is None:
        raise Unavailable("no Node: install Node 20 or newer with npm (on Debian: apt-get install nodejs npm)")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        raise Unavailable(
            "no Chromium: install it (on Debian: apt-get install chromium fonts-liberation) or name it in CHROMIUM"
        )
    if "PLAYWRIGHT_FOLDER" not in os.environ:
        _install_playwright()
    return Toolchain(node, chromium)


def _install_playwright() -> None:
    if (HERE / "node_modules" / "playwright-core").is_dir():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("no Playwright: install npm, or name a folder that has playwright-core in PLAYWRIGHT_FOLDER")
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
    environment = os.environ | {"PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"no Playwright: npm install failed in tests/browser: {done.stderr[-500:]}")


def frontend_files(version: str = "") -> Path:
    """The static files of one comfyui-frontend-package on the package index, or of its newest."""
    FRONTENDS.mkdir(parents=True, exist_ok=True)
    wanted = f"comfyui-frontend-package=={version}" if version else "comfyui-frontend-package"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run([*command, "--dest", str(FRONTENDS), wanted], capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"the package index gave no {wanted}: run again with a network")
    wheel = max(FRONTENDS.glob(f"comfyui_frontend_package-{version or '*'}-*.whl"), key=_version_of)
    folder = wheel.with_suffix("")
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder / "comfyui_frontend_package" / "static"


def _version_of(wheel: Path) -> Version:
    return Version(wheel.name.split("-")[1])
