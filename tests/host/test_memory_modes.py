"""The KV edit in hosts that keep less than usual: the same pictures, and what is asked back is given back."""

import time

import numpy as np
import pytest

import standins
from host.conftest import PHOTOGRAPHS
from host.graphs import klein
from host.server import Host
from host.test_reference_cache import kv_edit, lines_since, picture

pytestmark = pytest.mark.host

IMAGES = ["image_2.png", "image_4.png"]
SEEDS = (31, 32, 31)
CLASSES = ("ReferenceStore", "ReferenceMemory", "Flux")
# How the host is started, and what the cache finds in three runs.
MODES = {
    "nothing is kept": (["--cache-none"], ["miss", "miss", "miss"]),
    "little is kept, and nothing pinned": (
        ["--cache-lru", "4", "--disable-smart-memory", "--disable-pinned-memory", "--disable-dynamic-vram"],
        None,
    ),
    "RAM is always short": (["--cache-ram", "100000"], ["miss", "miss", "miss"]),
}


def outcomes(host, start):
    return [line.split(":")[0] for line in lines_since(host, start)]


def alive(host):
    return host.get(f"/klein9b_probe/alive?classes={','.join(CLASSES)}")


def free(host, **what):
    """As the menu's Unload Models does, or with free_memory Unload Models and Execution Cache."""
    host.post("/free", what)
    host.get("/system_stats")


def gone(host, *, timeout=20):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        left = alive(host)
        if not any(left.values()):
            return left
        time.sleep(0.2)
    return left


@pytest.fixture(scope="module")
def wanted(host):
    """By the host as it is started without arguments: each seed with references, and without."""
    edits = {seed: picture(host, kv_edit(IMAGES, seed=seed)) for seed in set(SEEDS)}
    return edits, picture(host, klein(IMAGES, seed=5))


def test_unloading_models_keeps_references_and_freeing_memory_drops_them(host, wanted):
    edits, _ = wanted
    start = len(host.log())
    picture(host, kv_edit(IMAGES, seed=33))
    kept = alive(host)["kept"]
    free(host, unload_models=True)
    assert np.array_equal(picture(host, kv_edit(IMAGES, seed=31)), edits[31])
    assert outcomes(host, start)[-1] == "hit" and alive(host)["kept"] == kept > 0
    free(host, unload_models=True, free_memory=True)
    assert gone(host) == dict.fromkeys((*CLASSES, "kept"), 0)
    assert np.array_equal(picture(host, kv_edit(IMAGES, seed=31)), edits[31])
    assert outcomes(host, start)[-1] == "miss"


@pytest.mark.parametrize("mode", MODES)
def test_the_pictures_are_the_same(checkout, models, wanted, tmp_path, mode):
    arguments, found = MODES[mode]
    (tmp_path / "models").symlink_to(models)
    standins.write_photographs(tmp_path / "input", PHOTOGRAPHS, longest_side=128)
    edits, plain = wanted
    with Host(checkout, tmp_path, arguments=tuple(arguments)) as other:
        for seed in SEEDS:
            assert np.array_equal(picture(other, kv_edit(IMAGES, seed=seed)), edits[seed])
        assert found is None or outcomes(other, 0) == found
        assert np.array_equal(picture(other, klein(IMAGES, seed=5)), plain)
        free(other, unload_models=True, free_memory=True)
        assert gone(other) == dict.fromkeys((*CLASSES, "kept"), 0)
