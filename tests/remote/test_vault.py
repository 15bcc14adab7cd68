import hashlib
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klein9b.remote.media_types import EXTENSIONS
from klein9b.remote.vault import Vault

PNG = "image/png"
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file modes and signals")
fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks a process")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_put_is_got_back(tmp_path):
    kept = Vault(tmp_path / "a" / "b").put(b"picture", PNG)
    assert kept.sha256 == hashlib.sha256(b"picture").hexdigest()
    assert (kept.size, kept.path) == (7, tmp_path / "a" / "b" / f"{kept.sha256}.png")
    assert kept.path.read_bytes() == b"picture"
    assert Vault(tmp_path / "a" / "b").get(kept.sha256) == b"picture"


def test_what_was_never_put_is_none(tmp_path):
    assert Vault(tmp_path).get("0" * 64) is None


@pytest.mark.parametrize("name", ["", "0" * 63, "0" * 64 + "\n", "../" + "0" * 61, "A" * 64])
def test_only_hashes_are_names(tmp_path, name):
    with pytest.raises(ValueError, match="sha256"):
        Vault(tmp_path).get(name)


def test_another_media_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="text/html"):
        Vault(tmp_path).put(b"x", "text/html")
    assert names(tmp_path) == []


@posix
def test_only_the_owner_reads_it(tmp_path):
    kept = Vault(tmp_path / "v").put(b"picture", PNG)
    assert stat.S_IMODE((tmp_path / "v").stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600


def test_the_same_bytes_are_written_once_whatever_they_are_called(tmp_path):
    vault = Vault(tmp_path)
    first = vault.put(b"picture", PNG)
    before = first.path.stat()
    assert vault.put(b"picture", PNG) == vault.put(b"picture", "image/webp") == first
    assert (first.path.stat().st_ino, first.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(tmp_path) == [first.path.name]


@pytest.mark.parametrize("damage", [b"", b"pictur", b"pictura", b"picture and more"])
def test_corrupt_bytes_are_set_aside_and_never_served(tmp_path, damage):
    vault = Vault(tmp_path)
    kept = vault.put(b"picture", PNG)
    kept.path.write_bytes(damage)
    assert vault.get(kept.sha256) is None
    assert vault.get(kept.sha256) is None
    [aside] = tmp_path.glob("*.corrupt")
    assert aside.read_bytes() == damage
    assert vault.listing() == []
    assert vault.put(b"picture", PNG) == kept
    assert vault.get(kept.sha256) == b"picture"
    assert aside.read_bytes() == damage


def test_putting_over_corrupt_bytes_sets_them_aside_too(tmp_path):
    vault = Vault(tmp_path)
    for damage in (b"bad", b"worse"):
        kept = vault.put(b"picture", PNG)
        kept.path.write_bytes(damage)
    assert vault.put(b"picture", PNG).path.read_bytes() == b"picture"
    assert {path.read_bytes() for path in tmp_path.glob("*.corrupt")} == {b"bad", b"worse"}


def test_the_listing_shows_pictures_and_sizes_newest_first(tmp_path):
    vault = Vault(tmp_path)
    old, new = vault.put(b"old one", PNG), vault.put(b"new", "image/jpeg")
    os.utime(old.path, (1, 1))
    (tmp_path / "notes.png").write_bytes(b"not ours")
    (tmp_path / ".x.part").write_bytes(b"half")
    assert vault.listing() == [new, old]
    assert [kept.size for kept in vault.listing()] == [3, 7]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_nothing_behind(tmp_path, monkeypatch, step):
    vault = Vault(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space"):
        vault.put(b"picture", PNG)
    assert names(tmp_path) == []


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    vault, steps = Vault(tmp_path), []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watched_replace(self, target):
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    vault.put(b"picture", PNG)
    assert steps == (["file", "rename", "folder"] if os.name == "posix" else ["file", "rename"])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=200), st.sampled_from(sorted(EXTENSIONS))), max_size=8))
def test_any_bytes_come_back(tmp_path, things):
    vault = Vault(tmp_path)
    kept = [(vault.put(data, media_type), data) for data, media_type in things]
    for one, data in kept:
        assert vault.get(one.sha256) == data
    assert {one.sha256 for one, _ in kept} <= {one.sha256 for one in vault.listing()}


def picture(number):
    return hashlib.sha256(b"%d" % number).digest() * 4096


def put_many(folder, numbers):
    vault = Vault(folder)
    for number in numbers:
        kept = vault.put(picture(number), PNG)
        assert vault.get(kept.sha256) == picture(number)


@fork
def test_two_processes_share_it(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=put_many, args=(tmp_path, range(k, 60 + k))) for k in (0, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(names(tmp_path)) == 80
    assert {kept.sha256 for kept in Vault(tmp_path).listing()} == {
        hashlib.sha256(picture(number)).hexdigest() for number in range(80)
    }


@posix
@fork
def test_a_killed_process_leaves_no_half_picture(tmp_path):
    context = multiprocessing.get_context("fork")
    for delay in (0.0, 0.001, 0.003, 0.01, 0.02, 0.03):
        seen = len(names(tmp_path))
        worker = context.Process(target=put_many, args=(tmp_path, range(100_000)))
        worker.start()
        while len(names(tmp_path)) <= seen and worker.is_alive():
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(60)
    vault = Vault(tmp_path)
    kept = vault.listing()
    assert kept
    assert all(vault.get(one.sha256) is not None for one in kept)
