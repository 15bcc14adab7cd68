"""Rewrites workflows/ and the documents' pictures from tests/browser/workflow_specs.mjs with the real frontend.

Usage: build_workflows.py MODELS_FOLDER
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pack import importable

import standins
from browser.plan_notes import plan_note
from browser.settings import SETTINGS
from browser.thumbnails import write_thumbnails
from browser.toolchain import find_toolchain
from host.checkout import PACK, find_checkout
from host.conftest import PHOTOGRAPHS
from host.server import Host

A_MAN = {"image_5.png": "camera"}


def main() -> None:
    importable()
    tools = find_toolchain()
    models = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "models").symlink_to(models)
        standins.write_photographs(base / "input", PHOTOGRAPHS | A_MAN, longest_side=512)
        settings = base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(SETTINGS))
        with Host(find_checkout(), base, probe=False) as host:
            script = Path(__file__).with_name("build_workflows.mjs")
            host_version = host.get("/system_stats")["system"]["comfyui_version"]
            plans = json.dumps({name: plan_note(inputs, name) for name, inputs in planned(tools.node).items()})
            subprocess.run(
                [tools.node, str(script), host.url, str(PACK / "workflows"), str(PACK), host_version],
                check=True,
                env=os.environ | {"CHROMIUM": tools.chromium, "PLANS": plans},
            )
    write_thumbnails(PACK / "workflows")


def planned(node: str) -> dict[str, dict]:
    """What Klein 9B Plan is asked in each workflow."""
    specs = (Path(__file__).with_name("workflow_specs.mjs")).as_uri()
    script = f"import({json.dumps(specs)}).then((specs) => console.log(JSON.stringify(specs.WORKFLOWS)))"
    found = json.loads(subprocess.run([node, "-e", script], check=True, capture_output=True, text=True).stdout)
    asked = {spec["name"]: [one["widgets"] for one in spec["nodes"] if one["type"] == "Klein9BPlan"] for spec in found}
    return {name: widgets[0] for name, widgets in asked.items() if widgets}


if __name__ == "__main__":
    main()
