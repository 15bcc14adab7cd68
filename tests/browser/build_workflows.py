"""Rewrites workflows/ and the documents' pictures from tests/browser/workflow_specs.mjs with the real frontend.

Usage: build_workflows.py MODELS_FOLDER
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import standins
from browser.settings import SETTINGS
from browser.toolchain import find_toolchain
from host.checkout import PACK, find_checkout
from host.conftest import PHOTOGRAPHS
from host.server import Host


def main() -> None:
    tools = find_toolchain()
    models = Path(sys.argv[1]).resolve()
    version = tomllib.loads((PACK / "pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "models").symlink_to(models)
        standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=512)
        settings = base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(SETTINGS))
        with Host(find_checkout(), base, probe=False) as host:
            script = Path(__file__).with_name("build_workflows.mjs")
            host_version = host.get("/system_stats")["system"]["comfyui_version"]
            subprocess.run(
                [tools.node, str(script), host.url, str(PACK / "workflows"), str(PACK), version, host_version],
                check=True,
                env=os.environ | {"CHROMIUM": tools.chromium},
            )


if __name__ == "__main__":
    main()
