import io
import json
import re
import struct
from pathlib import Path

import pytest
import weight_headers as files
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from klein9b.klein.safetensors_header import UnreadableFile, parse_header, read_header, read_small_tensors

FEW = {"a.weight": ("BF16", [3, 4]), "b.weight": ("F8_E4M3", [5]), "c": ("F32", [])}


class CountedFile(io.FileIO):
    """Counts the bytes that are asked for, not only those that come."""

    asked = 0

    def read(self, size=-1):
        self.asked += size if size >= 0 else 1 << 60
        return super().read(size)


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_names_dtypes_shapes_and_metadata_are_read(tmp_path):
    header = read_header(files.write(tmp_path / "few.safetensors", FEW, {"title": "few"}))
    assert {name: (t.dtype, list(t.shape)) for name, t in header.tensors.items()} == FEW
    assert header.metadata == {"title": "few"}
    assert header.file_size == (tmp_path / "few.safetensors").stat().st_size


def test_missing_tensors_have_no_width(tmp_path):
    header = read_header(files.write(tmp_path / "few.safetensors", FEW))
    assert (header.shape("a.weight"), header.shape("none"), header.shape("c")) == ((3, 4), (0, 0), (0, 0))
    assert (header.length("b.weight"), header.length("none"), header.length("c")) == (5, 0, 0)


def test_a_full_sized_model_costs_only_its_header(tmp_path):
    path = files.write(tmp_path / "klein.safetensors", files.flux2(**files.KLEIN_9B))
    assert path.stat().st_size > 18e9
    with CountedFile(path) as file:
        header = parse_header(file, path, path.stat().st_size)
        length = struct.unpack("<Q", path.open("rb").read(8))[0]
        assert file.asked == 8 + length < 64 * 1024
    assert len(header.tensors) == 201


def test_a_lying_length_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "lie.safetensors"
    path.write_bytes((90_000_000).to_bytes(8, "little") + b"{}")
    with CountedFile(path) as file, pytest.raises(UnreadableFile, match="cut short"):
        parse_header(file, path, path.stat().st_size)
    assert file.asked == 8


def test_small_tensors_are_read_and_large_ones_left(tmp_path):
    path = files.write(tmp_path / "q.safetensors", FEW, blobs={"x.comfy_quant": b"{}", "huge": bytes(5000)})
    assert read_small_tensors(read_header(path), ["x.comfy_quant", "huge", "none"]) == {"x.comfy_quant": b"{}"}


PICKLE = b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01."
RESTRICTED = b"Access to model black-forest-labs/FLUX.2-klein-9B is restricted. You must have access to it."


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"", "is empty"),
        (b"GGUF\x03\0\0\0" + bytes(40), "is a GGUF file, which only a GGUF loader node reads"),
        (
            b"PK\x03\x04\x14\0\0\0\x08\x08archive/data.pkl",
            "is a PyTorch pickle (.pt, .ckpt), not safetensors",
        ),
        (PICKLE, "is a PyTorch pickle (.pt, .ckpt), not safetensors"),
        (b"<!DOCTYPE html><html>", "is a web page saved under this name, not weights"),
        (b"\n <html lang='en'>", "is a web page saved under this name, not weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a git-lfs pointer, a few lines of text in place of the weights",
        ),
        (
            RESTRICTED,
            "is a text, not weights (it begins 'Access to model black-forest-labs/FLUX.2-klein-9B is restric')",
        ),
        (bytes(4096), "begins with zeros, as an unfinished download does"),
        (b"\xff\xfe\xfd\xfc" * 9, "is not a safetensors file"),
        (b"\x07", "is not a safetensors file"),
        (raw(b"[1, 2]"), "is not a safetensors file (its header is not a JSON object)"),
        (raw(b'{"a": '), "is damaged (its safetensors header is not valid JSON)"),
        (raw(b'{"a":' + b"[" * 100_000), "is damaged (its safetensors header is not valid JSON)"),
        (raw(b'{"a":' + b"9" * 4000 + b"}"), "is damaged (its safetensors header is not valid JSON)"),
        (raw(b'{"a": NaN}'), "is damaged (its safetensors header is not valid JSON)"),
        (raw({"__metadata__": {"a": 1}}), "is damaged (its header's metadata are not plain strings)"),
        (raw({"a": 1}), "is damaged (its header describes 'a' wrongly)"),
        (
            raw({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4)),
            "is damaged (its header describes 'a' wrongly)",
        ),
        (
            raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
            "is damaged ('a' does not fill its place in the file)",
        ),
        (
            raw({"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, bytes(3)),
            "is damaged (its tensors overlap or leave gaps)",
        ),
        (
            raw({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, bytes(3)),
            "is damaged (1 bytes follow its last tensor)",
        ),
    ],
)
def test_what_a_file_is_instead(tmp_path, start, found):
    path = tmp_path / "it.safetensors"
    path.write_bytes(start)
    with pytest.raises(UnreadableFile) as error:
        read_header(path)
    assert (error.value.found, str(error.value)) == (found, f"it.safetensors {found}.")


@pytest.mark.peer
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_a_pickle(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "it.pt"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnreadableFile, match="is a PyTorch pickle"):
        read_header(path)


def test_a_file_cut_short_says_how_much_is_there(tmp_path):
    path = files.write(tmp_path / "klein.safetensors", files.flux2(**files.KLEIN_9B))
    with path.open("r+b") as file:
        file.truncate(3_100_000_000)
    with pytest.raises(UnreadableFile, match=re.escape("is cut short (3.10 GB of 18.16 GB are there)")):
        read_header(path)


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    with pytest.raises(UnreadableFile, match=r"gone\.safetensors is not there\."):
        read_header(tmp_path / "gone.safetensors")
    with pytest.raises(UnreadableFile, match="is a folder, not a file"):
        read_header(tmp_path)


GOOD = raw(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
    },
    bytes(11),
)
SIZES = st.one_of(st.integers(-3, 12), st.sampled_from([2**31, 2**63, 2**64, 2**70]))
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BF16", "F32", "F4", "F8_E8M0", "F5"]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(SIZES, max_size=3),
    }
)
HEADERS = st.dictionaries(st.sampled_from("abc"), ENTRY, max_size=3)
MUTATIONS = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4)


def mutated(changes):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    return bytes(data)


@pytest.mark.peer
@settings(max_examples=1500, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(lambda data: raw(b"{" + data)),
        MUTATIONS.map(mutated),
        st.integers(0, len(GOOD) - 1).map(lambda end: GOOD[:end]),
        st.builds(raw, HEADERS, st.integers(0, 12).map(bytes)),
    )
)
@example(GOOD)
@example(raw({}))
@example(raw({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)))
@example(raw({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}))
def test_what_we_read_the_safetensors_library_reads_alike(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(data)
    try:
        ours = {name: list(tensor.shape) for name, tensor in read_header(path).tensors.items()}
    except UnreadableFile:
        return
    with safe_open(path, framework="np") as file:
        assert ours == {name: file.get_slice(name).get_shape() for name in file.keys()}


@pytest.mark.peer
@settings(max_examples=300, deadline=None)
@given(st.builds(raw, HEADERS, st.integers(0, 12).map(bytes)), MUTATIONS.map(mutated))
@example(GOOD, GOOD)
def test_what_the_safetensors_library_reads_we_read_too(tmp_path_factory, built, changed):
    for data in (built, changed):
        path = Path(tmp_path_factory.getbasetemp() / "fuzz.safetensors")
        path.write_bytes(data)
        try:
            with safe_open(path, framework="np") as file:
                names = set(file.keys())
        except SafetensorError:
            continue
        assert set(read_header(path).tensors) == names
