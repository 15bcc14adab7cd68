"""A headless ComfyUI on CPU with this pack, spoken to over its HTTP API."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from .checkout import PACK

LAUNCHER = Path(__file__).with_name("launch.py")
PROBE = Path(__file__).with_name("probe")
SHIPPED = ("__init__.py", "nodes", "klein", "remote", "kernels", "workflows", "subgraphs", "locales", "pyproject.toml")


class HostError(RuntimeError):
    """The host refused a graph or a node failed; carries the host's own words."""


_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = iter(range(18000 + 1000 * _PROCESS, 19000 + 1000 * _PROCESS))


def free_port() -> int:
    """Below those that the system hands out, each process of the suite with its own: nobody takes it meanwhile."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise HostError("no port is free")


def install_pack(custom_nodes: Path, folder_name: str) -> Path:
    """Copies what a user gets into a folder of any name."""
    target = custom_nodes / folder_name
    target.mkdir(parents=True)
    for name in SHIPPED:
        source = PACK / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target / name)
    return target


class Host:
    """One ComfyUI process with a base directory of its own.

    Args:
        base: models, input, output, user and custom_nodes live here.
        folder_name: what the pack's folder is called inside custom_nodes.
        environment: added to this process's environment.
        python: the interpreter of the environment that the host is installed in.
    """

    def __init__(
        self,
        checkout: Path,
        base: Path,
        *,
        folder_name: str = "klein9b",
        probe: bool = True,
        environment: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        python: Path | str = sys.executable,
    ) -> None:
        self.checkout = checkout
        self.base = base
        self.log_path = base / "host.log"
        self.environment = environment or {}
        self.arguments = arguments
        self.python = python
        self.process: subprocess.Popen | None = None
        if not (base / "custom_nodes").exists():
            install_pack(base / "custom_nodes", folder_name)
            if probe:
                os.symlink(PROBE, base / "custom_nodes" / "klein9b_probe")

    def start(self, *, timeout: float = 180) -> "Host":
        self.port = free_port()
        command = [str(self.python), str(LAUNCHER), str(self.checkout), "--cpu", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-api-nodes", "--fp32-text-enc", *self.arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | self.environment, start_new_session=True
            )
        self._wait_until_up(timeout)
        return self

    def _wait_until_up(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise HostError(f"ComfyUI ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.2)
        raise HostError(f"ComfyUI did not answer within {timeout} s:\n{self.log()[-3000:]}")

    def kill(self) -> None:
        """kill -9, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> "Host":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise HostError(error.read().decode()) from None

    def queue(self, graph: dict, *, client_id: str | None = None) -> str:
        """Queues an API-format graph for one who watches, or for nobody, and returns its prompt id."""
        return self.post("/prompt", {"prompt": graph} | ({"client_id": client_id} if client_id else {}))["prompt_id"]

    def wait(self, prompt_id: str, *, timeout: float = 300) -> dict:
        """The history entry of a finished prompt.

        Raises:
            HostError: a node failed; the message is the node's own.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _checked(entry)
            if self.process.poll() is not None:
                raise HostError(f"ComfyUI ended while running:\n{self.log()[-3000:]}")
            time.sleep(0.1)
        raise HostError(f"The prompt did not finish within {timeout} s:\n{self.log()[-3000:]}")

    def run(self, graph: dict, *, timeout: float = 300, client_id: str | None = None) -> dict:
        return self.wait(self.queue(graph, client_id=client_id), timeout=timeout)

    def pictures(self, entry: dict) -> list[Path]:
        """The PNG files a finished prompt saved."""
        return [
            self.output / image["subfolder"] / image["filename"]
            for node in entry["outputs"].values()
            for image in node.get("images", [])
            if image["type"] == "output"
        ]


def _checked(entry: dict) -> dict:
    for kind, details in entry["status"]["messages"]:
        if kind == "execution_error":
            raise HostError(f"{details['node_type']}: {details['exception_message']}")
    return entry
