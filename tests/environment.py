"""Prepares the virtual environment that make test, make demo and make bench run in.

Installs torch (a CPU build where there is no NVIDIA GPU), the tests' own requirements and, where a ComfyUI checkout
is found, the host's. Does nothing when it has already done so for the same files.

Usage: environment.py VENV
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PACK / "tests"))

from host.checkout import find_checkout  # noqa: E402

CONSTRAINTS = PACK / "constraints.txt"


def requirement_files() -> list[Path]:
    checkout = find_checkout()
    host = [checkout / "requirements.txt"] if checkout else []
    return [PACK / "tests" / "requirements.txt", *host]


def fingerprint() -> str:
    files = [PACK / "requirements.txt", CONSTRAINTS, *requirement_files()]
    return hashlib.sha256(b"".join(str(f).encode() + f.read_bytes() for f in files)).hexdigest()


def say(text: str) -> None:
    sys.stdout.write(f"[setup] {text}\n")
    sys.stdout.flush()


def pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def install_torch(python: Path) -> None:
    """uv knows where CPU builds live; where it cannot reach them, pip takes what its own index has."""
    torch = CONSTRAINTS.read_text().split()[0]
    if shutil.which("nvidia-smi") is None:
        pip(python, "uv")
        command = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--torch-backend=cpu", torch]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            return
    pip(python, torch)


def main() -> None:
    folder = Path(sys.argv[1])
    stamp = folder / "ready"
    if stamp.exists() and stamp.read_text() == fingerprint():
        return
    say(f"creating {folder}")
    venv.create(folder, with_pip=True)
    python = folder.resolve() / "bin" / "python"
    say("installing torch")
    install_torch(python)
    for requirements in requirement_files():
        say(f"installing {requirements}")
        pip(python, "--constraint", str(CONSTRAINTS), "--requirement", str(requirements))
    stamp.write_text(fingerprint())


if __name__ == "__main__":
    main()
