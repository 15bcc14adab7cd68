"""Loads a folder as the host loads a custom node pack, in a process of its own, and tells what that cost.

Usage: load_pack.py COMFYUI_DIRECTORY PACK_FOLDER   (prints JSON)
"""

from __future__ import annotations

import asyncio
import compileall
import contextlib
import gc
import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

PACKAGES = ("klein", "kernels", "nodes", "remote")


@dataclass(frozen=True)
class LoadedPack:
    """What loading a pack did beyond loading the host.

    Attributes:
        seconds: processor time of the import, without compiling to bytecode, and without collecting the host's own
            half a million objects, which takes as long and falls on whichever import happens to be the next.
        tensors: module-level tensors, as module.name.
    """

    nodes: list[str]
    seconds: float
    cuda_initialized: bool
    tensors: list[str]
    prints: str


class Forbidden(RuntimeError):
    """The pack did at import what it may only do when a node runs."""


def load_pack(checkout: Path, folder: Path) -> LoadedPack:
    """Loads the pack in a fresh interpreter.

    Raises:
        AssertionError: it did not load; carries what the interpreter said.
    """
    command = [sys.executable, __file__, str(checkout), str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=checkout, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return LoadedPack(**json.loads(answer.stdout.splitlines()[-1]))


def _refuse(what: str) -> mock.Mock:
    return mock.Mock(side_effect=Forbidden(f"The pack used {what} at import"))


@contextlib.contextmanager
def _forbidding_network_and_cuda() -> Iterator[None]:
    with contextlib.ExitStack() as patches:
        for name in ("connect", "connect_ex", "sendto"):
            patches.enter_context(mock.patch.object(socket.socket, name, _refuse(f"socket.{name}")))
        for name in ("getaddrinfo", "gethostbyname"):
            patches.enter_context(mock.patch.object(socket, name, _refuse(f"socket.{name}")))
        patches.enter_context(mock.patch("torch.cuda._lazy_init", _refuse("CUDA")))
        yield


def _enter_host(checkout: Path) -> None:
    sys.path[0] = str(Path(__file__).parent)
    from host.inprocess import enter

    enter(checkout)
    import server  # noqa: F401


def _import_pack(folder: Path) -> ModuleType:
    """As the host's load_custom_node does, from a folder of any name."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _node_ids(pack: ModuleType) -> list[str]:
    extension = await pack.comfy_entrypoint()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]


def _holds_tensor(value: object) -> bool:
    import torch

    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_holds_tensor(one) for one in value)
    return isinstance(value, torch.Tensor)


def _tensors_of(modules: list[ModuleType]) -> list[str]:
    return [f"{one.__name__}.{name}" for one in modules for name, value in vars(one).items() if _holds_tensor(value)]


def main() -> None:
    checkout, folder = (Path(one).resolve() for one in sys.argv[1:3])
    _enter_host(checkout)
    for name in PACKAGES:
        compileall.compile_dir(folder / name, quiet=2)
    loop = asyncio.new_event_loop()
    said = []
    gc.collect()
    gc.freeze()
    start = time.process_time()
    listen = mock.patch("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
    with listen, _forbidding_network_and_cuda():
        pack = _import_pack(folder)
        ids = loop.run_until_complete(_node_ids(pack))
    seconds = time.process_time() - start
    import torch

    own = [one for name, one in list(sys.modules.items()) if name.split(".")[0] == pack.__name__ or one is pack]
    facts = LoadedPack(ids, seconds, torch.cuda.is_initialized(), _tensors_of(own), "\n".join(said))
    sys.stdout.write("\n" + json.dumps(vars(facts)) + "\n")


if __name__ == "__main__":
    main()
