"""Prepares the virtual environment that make test, make demo and make bench run in, and fetches a ComfyUI for them.

Installs torch (a CPU build where there is no NVIDIA GPU), the tests' own requirements and the host's. Where no ComfyUI
is found, comfy-cli is asked for one; where none can be had, one sentence says so and everything else is ready. Does
nothing when it has already done so for the same files.

Usage: environment.py VENV
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PACK / "tests"))

from host.checkout import NoHost, NotWanted, WrongPath, find_checkout  # noqa: E402
from host.fetch import NotFetched, fetch  # noqa: E402

CONSTRAINTS = PACK / "constraints.txt"
OURS = PACK / "tests" / "requirements.txt"
OLDEST_PYTHON = (3, 10)


class NotReady(RuntimeError):
    """The environment cannot be made; the message says what to do."""


class Environment:
    """One virtual environment and the files it was installed from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder.absolute() / "bin" / "python"
        self._stamp = folder / "ready"

    def holds(self, files: list[Path]) -> bool:
        return self._stamp.exists() and self._stamp.read_text() == fingerprint(files)

    def install(self, files: list[Path]) -> None:
        """Makes the environment hold what these requirement files ask for.

        Raises:
            NotReady: a package could not be installed.
        """
        if self.holds(files):
            return
        if not self.python.exists():
            say(f"creating {self.folder}")
            create(self.folder)
        say("installing torch")
        self._install_torch()
        for requirements in files:
            say(f"installing {requirements}")
            self._pip("--constraint", str(CONSTRAINTS), "--requirement", str(requirements))
        self._stamp.write_text(fingerprint(files))

    def _install_torch(self) -> None:
        """uv knows where CPU builds live; where it cannot reach them, pip takes what its own index has."""
        torch = CONSTRAINTS.read_text().split()[0]
        if self._has(torch):
            return
        if shutil.which("nvidia-smi") is None:
            self._pip("uv")
            command = [self.python, "-m", "uv", "pip", "install", "--quiet", "--python", self.python]
            command += ["--torch-backend=cpu", torch]
            if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
                return
        self._pip(torch)

    def _has(self, requirement: str) -> bool:
        name, version = requirement.split("==")
        command = [self.python, "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]
        return subprocess.run(command, capture_output=True, text=True).stdout.split("+")[0].strip() == version

    def _pip(self, *arguments: str) -> None:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        if subprocess.run(command).returncode != 0:
            raise NotReady(f"pip could not install {arguments[-1]}: see its words above. Mend that and run make again")


def fingerprint(files: list[Path]) -> str:
    read = [PACK / "requirements.txt", CONSTRAINTS, *files]
    return hashlib.sha256(b"".join(str(f).encode() + f.read_bytes() for f in read)).hexdigest()


def create(folder: Path) -> None:
    import venv

    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotReady(
            "this Python cannot make virtual environments (on Debian: apt-get install python3-venv). Install that, or "
            "name another Python: make test PYTHON=python3.12"
        ) from None


def say(text: str) -> None:
    sys.stdout.write(f"[setup] {text}\n")
    sys.stdout.flush()


def require_python(version: tuple[int, ...]) -> None:
    if version[:2] < OLDEST_PYTHON:
        found, oldest = (".".join(map(str, each[:2])) for each in (version, OLDEST_PYTHON))
        raise NotReady(f"this is Python {found} and the pack needs {oldest} or newer: make test PYTHON=python3.12")


def prepare(environment: Environment) -> None:
    """The tests' own requirements, then a host's beside them."""
    try:
        checkout = find_checkout()
    except NoHost as reason:
        environment.install([OURS])
        checkout = fetched(environment, reason)
    if checkout:
        environment.install([OURS, checkout / "requirements.txt"])


def fetched(environment: Environment, reason: NoHost) -> Path | None:
    """A ComfyUI by comfy-cli, unless none is wanted or none can be had."""
    try:
        return None if isinstance(reason, NotWanted) else fetch(environment.python.with_name("comfy"), say)
    except NotFetched as failure:
        say(f"{failure}. {reason}. Everything else runs without it")
        return None


def main() -> None:
    try:
        require_python(sys.version_info[:3])
        prepare(Environment(Path(sys.argv[1])))
    except (NotReady, WrongPath) as mistake:
        sys.exit(f"[setup] {mistake}")


if __name__ == "__main__":
    main()
