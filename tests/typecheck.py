"""Runs mypy over the pack under its import name, klein9b, whatever its folder is called.

mypy names a package after its folder, and that folder may be ComfyUI-anything; it is linked as klein9b in a temporary
place for the time of the check.

Usage: typecheck.py   (exit status and output are mypy's)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
PACKAGES = ("klein", "kernels", "nodes", "remote")


def typecheck(pack: Path) -> subprocess.CompletedProcess[str]:
    present = [f"--package=klein9b.{name}" for name in PACKAGES if (pack / name / "__init__.py").is_file()]
    settings = ["--config-file", str(pack / "pyproject.toml"), "--cache-dir", str(pack / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *settings, "--module=klein9b", *present]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "klein9b").symlink_to(pack)
        environment = os.environ | {"MYPYPATH": folder}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    answer = typecheck(PACK)
    sys.stdout.write(answer.stdout + answer.stderr)
    sys.exit(answer.returncode)
