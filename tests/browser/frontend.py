"""One headless browser on ComfyUI's own frontend, spoken to a command a line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from browser.toolchain import Toolchain
from host.checkout import PACK

DRIVER = Path(__file__).with_name("driver.mjs")
SCREENSHOTS = PACK / "build" / "screenshots"


class FrontendError(RuntimeError):
    """The page could not do what was asked; carries Playwright's words and where the screenshot is."""


class Frontend:
    """What a person does with the page, by the names of the functions in the .mjs files beside this one."""

    def __init__(self, tools: Toolchain) -> None:
        self.name = "page"
        self.process = subprocess.Popen(
            [tools.node, str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"CHROMIUM": tools.chromium},
        )

    def ask(self, action: str, **options: Any) -> dict:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"action": action, "options": options}) + "\n")
            self.process.stdin.flush()
        return json.loads(self.process.stdout.readline() or '{"error": "the browser driver ended"}')

    def __call__(self, action: str, **options: Any) -> Any:
        answer = self.ask(action, **options)
        if "error" in answer:
            picture = self.screenshot_path(f"failed {action}")
            self.ask("screenshot", file=str(picture))
            raise FrontendError(f"{action}: {answer['error']} (see {picture})")
        return answer["result"]

    def screenshot_path(self, name: str) -> Path:
        return SCREENSHOTS / self.name / f"{name}.png"

    def screenshot(self, name: str) -> None:
        self("screenshot", file=str(self.screenshot_path(name)))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
