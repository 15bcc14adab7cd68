"""Encoded prompts come back to the last bit or not at all, whatever happens to their files."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from klein9b.klein import prompt_files
from klein9b.klein.prompt_files import Encoding, PromptFiles
from klein9b.klein.prompt_store import PromptKey, PromptStore

KEY = "0123abcd"
DISK = 1 << 30


def encoding(seed=0, tokens=16, dtype=torch.float32):
    cond = torch.randn(1, tokens, 12288, generator=torch.Generator().manual_seed(seed)).to(dtype)
    mask = torch.ones(1, tokens, dtype=torch.int64)
    return Encoding({"cond": cond, "attention_mask": mask}, ("pooled_output",), tokens + 5)


def same(one, other):
    return (
        other is not None
        and one.without == other.without
        and one.tokens == other.tokens
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)
        and all(one.tensors[n].dtype == other.tensors[n].dtype for n in one.tensors)
    )


@pytest.fixture
def files(tmp_path):
    return PromptFiles(tmp_path / "prompts", DISK)


def only_file(files):
    (path,) = files.folder.iterdir()
    return path


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("tokens", [1, 16, 512])
    def test_it_comes_back_to_the_last_bit(self, files, dtype, tokens):
        kept = encoding(tokens=tokens, dtype=dtype)
        files.keep(KEY, kept)
        assert same(kept, PromptFiles(files.folder, DISK).find(KEY))

    def test_what_was_never_kept_is_not_found(self, files, caplog):
        assert files.find(KEY) is None and not files.folder.exists() and not caplog.records

    def test_no_word_of_the_prompt_is_in_the_file(self, files):
        files.keep(KEY, encoding())
        header = only_file(files).read_bytes()[:2000]
        assert b"fox" not in header and KEY.encode() in header

    def test_another_prompts_file_is_not_taken_for_it(self, files, caplog):
        files.keep("other", encoding())
        only_file(files).rename(files.folder / f"{KEY}.safetensors")
        assert files.find(KEY) is None
        assert [r.message for r in caplog.records] == [
            f"Klein 9B encodes a prompt anew: {KEY}.safetensors is another prompt's."
        ]

    @pytest.mark.parametrize("at", [0.3, 0.6, 0.999])
    def test_a_byte_that_changed_is_seen(self, files, caplog, at):
        files.keep(KEY, encoding())
        path = only_file(files)
        data = bytearray(path.read_bytes())
        data[int(len(data) * at)] ^= 1
        path.write_bytes(data)
        assert files.find(KEY) is None and "has changed since it was written" in caplog.text

    @pytest.mark.parametrize("length", [0, 7, 100, 5000, -1])
    def test_a_file_cut_short_is_seen_and_written_anew(self, files, caplog, length):
        files.keep(KEY, encoding())
        path = only_file(files)
        path.write_bytes(path.read_bytes()[:length])
        assert files.find(KEY) is None and len(caplog.records) == 1
        files.keep(KEY, encoding(1))
        assert same(encoding(1), files.find(KEY))

    def test_a_folder_in_its_place(self, files, caplog):
        (files.folder / f"{KEY}.safetensors").mkdir(parents=True)
        assert files.find(KEY) is None and len(caplog.records) == 1
        files.keep(KEY, encoding())
        assert files.find(KEY) is None

    @pytest.mark.parametrize(
        "tensors",
        [
            {"cond": torch.zeros(1, 16, 4096)},
            {"cond": torch.zeros(2, 16, 12288)},
            {"cond": torch.zeros(1, 513, 12288)},
            {"cond": torch.zeros(1, 0, 12288)},
            {"cond": torch.zeros(16, 12288)},
            {"cond": torch.zeros(1, 16, 12288, dtype=torch.int32)},
            {"cond": torch.zeros(1, 16, 12288, dtype=torch.float64)},
            {"weight": torch.zeros(1, 16, 12288)},
        ],
    )
    def test_another_shape_is_refused(self, files, caplog, tensors):
        files.keep(KEY, Encoding(tensors))
        assert files.find(KEY) is None and len(caplog.records) == 1

    def test_foreign_safetensors_are_refused(self, files, caplog):
        files.folder.mkdir()
        path = files.folder / f"{KEY}.safetensors"
        save_file(dict(encoding().tensors), path)
        assert files.find(KEY) is None and "is no encoded prompt of this format" in caplog.text

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    @pytest.mark.parametrize("where", ["write_bytes", "mkdir"])
    def test_a_disk_that_takes_nothing_is_one_line(self, files, caplog, monkeypatch, error, where):
        def fail(self, *_args, **_options):
            raise OSError(error, os.strerror(error), str(self))

        monkeypatch.setattr(prompt_files.Path, where, fail)
        files.keep(KEY, encoding())
        assert len(caplog.records) == 1 and os.strerror(error) in caplog.text
        monkeypatch.undo()
        assert files.find(KEY) is None and not list(files.folder.parent.rglob("*.unfinished"))

    def test_a_write_that_breaks_off_leaves_what_was_there(self, files, monkeypatch):
        files.keep(KEY, encoding(0))
        write = prompt_files.Path.write_bytes

        def half(self, data):
            write(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(prompt_files.Path, "write_bytes", half)
        files.keep(KEY, encoding(1))
        assert same(encoding(0), files.find(KEY)) and only_file(files)

    def test_those_used_longest_ago_go_first(self, files):
        one = encoding(tokens=64)
        files.most_bytes = int(3.5 * one.nbytes)
        for i in range(3):
            files.keep(f"{i}", one)
            os.utime(files.folder / f"{i}.safetensors", (i, i))
        assert files.find("0") is not None
        files.keep("3", one)
        assert {path.stem for path in files.folder.iterdir()} == {"0", "2", "3"}

    def test_what_is_larger_than_the_bound_is_not_written(self, files):
        files.most_bytes = 1000
        files.keep(KEY, encoding())
        assert not files.folder.exists()

    def test_what_a_dead_process_left_is_removed_once_it_is_old(self, files):
        files.folder.mkdir()
        old, new = files.folder / "a.1.b.unfinished", files.folder / "a.2.b.unfinished"
        for path in (old, new):
            path.write_bytes(b"half")
        os.utime(old, (time.time() - 7200,) * 2)
        files.keep(KEY, encoding())
        assert not old.exists() and new.exists()


WHOLE = None


def _whole():
    global WHOLE
    if WHOLE is None:
        WHOLE = prompt_files._serialised(KEY, encoding(tokens=1))
    return WHOLE


def _read_back(folder, data):
    files = PromptFiles(folder, DISK)
    files.folder.mkdir(exist_ok=True)
    (files.folder / f"{KEY}.safetensors").write_bytes(data)
    return files.find(KEY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class TestFuzz:
    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=400))
    def test_any_bytes(self, tmp_path_factory, data):
        assert _read_back(tmp_path_factory.getbasetemp() / "any", data) is None

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_a_whole_file_with_bytes_changed(self, tmp_path_factory, data):
        whole = bytearray(_whole())
        spots = data.draw(st.lists(st.integers(0, 700) | st.integers(0, len(whole) - 1), min_size=1, max_size=4))
        for spot in spots:
            whole[spot] = data.draw(st.integers(0, 255))
        found = _read_back(tmp_path_factory.getbasetemp() / "changed", bytes(whole))
        # A space in the header's JSON, or a byte set to what it was, changes nothing.
        assert found is None or torch.equal(found.tensors["cond"], encoding(tokens=1).tensors["cond"])

    @settings(max_examples=150, deadline=None)
    @given(about=JSON, fields=st.dictionaries(st.sampled_from(["without", "tokens", "sums", "key", "format"]), JSON))
    def test_any_metadata(self, tmp_path_factory, about, fields):
        told = {"format": 1, "key": KEY, "without": [], "tokens": 1, "sums": {}} | fields
        for value in (about, told):
            data = save(dict(encoding(tokens=1).tensors), {"klein9b_prompt": json.dumps(value)})
            assert _read_back(tmp_path_factory.getbasetemp() / "told", data) is None


def write_often(folder, seed):
    """In a process of its own, see below."""
    files = PromptFiles(folder, 6 * encoding().nbytes)
    for i in range(40):
        files.keep(f"{i % 8}", encoding(i % 8))
        found = files.find(f"{(i + seed) % 8}")
        assert found is None or same(encoding((i + seed) % 8), found)


def start_writer(folder, seed):
    tests = Path(__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(tests)!r}, {str(Path(__file__).parent)!r}]\n"
    code += "from pack import importable; importable()\n"
    code += "from pathlib import Path; from test_prompt_store import write_often\n"
    code += f"write_often(Path({str(folder)!r}), {seed})"
    return subprocess.Popen([sys.executable, "-c", code])


def test_two_processes_may_share_the_folder(tmp_path):
    writers = [start_writer(tmp_path, seed) for seed in (1, 2)]
    assert [one.wait(120) for one in writers] == [0, 0]
    left = {path.name for path in tmp_path.iterdir()}
    assert left and not any(name.endswith(".unfinished") for name in left)
    files = PromptFiles(tmp_path, DISK)
    assert all(same(encoding(int(name.partition(".")[0])), files.find(name.partition(".")[0])) for name in left)


class TestStore:
    def test_ram_first_then_disk(self, tmp_path):
        store = PromptStore(tmp_path)
        store.keep(PromptKey(KEY), encoding())
        assert store.find(PromptKey(KEY)).place == "RAM"
        later = PromptStore(tmp_path)
        found = later.find(PromptKey(KEY))
        assert found.place == "disk" and same(encoding(), found.encoding)
        assert later.find(PromptKey(KEY)).place == "RAM"
        assert later.find(PromptKey("other")) is None

    def test_what_only_this_process_knows_stays_off_the_disk(self, tmp_path):
        store, key = PromptStore(tmp_path), PromptKey(KEY, process="a model")
        store.keep(key, encoding())
        assert store.find(key).place == "RAM" and not list(tmp_path.iterdir())
        assert store.find(PromptKey(KEY)) is None and store.find(PromptKey(KEY, process="another")) is None

    @pytest.mark.parametrize("restarted", [False, True])
    def test_nobody_else_can_write_into_what_is_kept(self, tmp_path, restarted):
        store, handed_in = PromptStore(tmp_path), encoding()
        store.keep(PromptKey(KEY), handed_in)
        store = PromptStore(tmp_path) if restarted else store
        for one in (handed_in, store.find(PromptKey(KEY)).encoding, store.find(PromptKey(KEY)).encoding):
            for tensor in one.tensors.values():
                tensor.zero_()
        assert same(encoding(), store.find(PromptKey(KEY)).encoding)

    def test_it_takes_64_mib_of_ram(self, tmp_path):
        store, one = PromptStore(tmp_path), encoding(tokens=512)
        keys = [PromptKey(f"{i}", process="it") for i in range(4)]
        for key in keys:
            store.keep(key, one)
        assert [store.find(key) is not None for key in keys] == [False, False, True, True]

    def test_ram_is_bounded(self, tmp_path):
        one = encoding()
        store = PromptStore(tmp_path, ram_bytes=int(2.5 * one.nbytes))
        keys = [PromptKey(f"{i}", process="it") for i in range(3)]
        for key in keys[:2]:
            store.keep(key, one)
        store.find(keys[0])
        store.keep(keys[2], one)
        assert [store.find(key) is not None for key in keys] == [True, False, True]

    def test_what_is_larger_than_the_bound_is_forgotten(self, tmp_path):
        store = PromptStore(tmp_path, ram_bytes=10)
        store.keep(PromptKey(KEY, process="it"), encoding())
        assert store.find(PromptKey(KEY, process="it")) is None
