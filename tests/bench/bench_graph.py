"""Our graph beside the same graph of stock nodes in one host, interleaved; and what a changed prompt encodes."""

import tempfile
from pathlib import Path

import standins
from host.checkout import NoHost, find_checkout
from host.graphs import klein, stock
from host.server import Host

ROUNDS = 9
PHOTOGRAPHS = {"image_1.png": "astronaut", "image_2.png": "astronaut"}
SIDE = 256
LIMIT = 1.05


def _seconds(host: Host, graph: dict) -> float:
    """Wall time by the host's own clock, from its start message to its end."""
    messages = dict(host.run(graph)["status"]["messages"])
    return (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000


def _graphs(names: list[str], seed: int) -> dict[str, dict]:
    """Two graphs whose saved pictures hold the same pixels; both load and encode once, so rounds time sampling."""
    ours = klein(names, seed=seed)
    ours["save"]["inputs"]["images"] = ["decode", 0]
    del ours["restore"]
    return {"ours": ours, "stock": stock(names, seed=seed, size=(SIDE, SIDE))}


def ratio(host: Host, names: list[str]) -> float:
    """The fastest of ours / the fastest of stock: the machine's noise only ever adds. Turned every round."""
    for graph in _graphs(names, 0).values():
        host.run(graph)
    times = {"ours": [], "stock": []}
    for seed in range(1, ROUNDS + 1):
        for kind, graph in list(_graphs(names, seed).items())[:: 1 if seed % 2 else -1]:
            times[kind].append(_seconds(host, graph))
    return min(times["ours"]) / min(times["stock"])


def encodes_after_a_new_prompt(host: Host) -> int:
    names = list(PHOTOGRAPHS)
    host.run(klein(names, prompt="first"))
    before = len(host.get("/klein9b_probe/vae_encodes"))
    host.run(klein(names, prompt="second"))
    return len(host.get("/klein9b_probe/vae_encodes")) - before


def main() -> list[dict]:
    try:
        checkout = find_checkout()
    except NoHost as reason:
        return [{"name": "our graph / stock nodes", "value": None, "unit": "", "limit": LIMIT, "why": str(reason)}]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        standins.write_models(base / "models")
        standins.write_photographs(base / "input", PHOTOGRAPHS, longest_side=SIDE)
        # Models of both graphs stay loaded: by default the host drops what the latest graph does not use.
        with Host(checkout, base, arguments=("--cache-lru", "100")) as host:
            rows = [
                {
                    "name": f"our graph / the same of stock nodes, {len(names)} references",
                    "value": ratio(host, names),
                    "unit": "x",
                    "limit": LIMIT,
                }
                for names in ([], list(PHOTOGRAPHS))
            ]
            encodes = encodes_after_a_new_prompt(host)
    return [*rows, {"name": "VAE encodes after a new prompt", "value": encodes, "unit": "", "limit": 0}]
