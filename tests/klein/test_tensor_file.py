"""A safetensors file written in pieces beside the safetensors library, and what is left when writing fails."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from klein9b.klein.safetensors_header import BITS, read_header
from klein9b.klein.tensor_file import UNFINISHED, Entry, layout, new_tensor_file

TENSORS = {
    "b.levels": torch.arange(-6, 6, dtype=torch.int8).view(3, 4),
    "a.levels": torch.ones(5, dtype=torch.int8),
    "mark": torch.tensor(list(b'{"format": 1}'), dtype=torch.uint8),
    "wide": torch.arange(3, dtype=torch.float32),
    "half": torch.arange(6).to(torch.bfloat16).view(2, 3),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 4, dtype=torch.bfloat16),
}
NAMES = {torch.int8: "I8", torch.uint8: "U8", torch.float32: "F32", torch.bfloat16: "BF16"}
ENTRIES = {name: Entry(NAMES[one.dtype], tuple(one.shape)) for name, one in TENSORS.items()}
METADATA = {"made by": "a test"}


def raw(name):
    return TENSORS[name].reshape(-1).view(torch.uint8).numpy().tobytes() if TENSORS[name].numel() else b""


def write(target, entries=ENTRIES, names=tuple(TENSORS)):
    with new_tensor_file(target, layout(entries, METADATA)) as made:
        for name in names:
            made.write(name, raw(name))


def test_the_safetensors_library_reads_it(tmp_path):
    write(tmp_path / "new.safetensors")
    read = load_file(tmp_path / "new.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    assert read_header(tmp_path / "new.safetensors").metadata == METADATA


def test_every_tensor_starts_at_a_multiple_of_its_element(tmp_path):
    write(tmp_path / "new.safetensors")
    for name, tensor in read_header(tmp_path / "new.safetensors").tensors.items():
        assert tensor.start * 8 % BITS[tensor.dtype] == 0, name


def test_its_size_is_known_before(tmp_path):
    write(tmp_path / "new.safetensors")
    assert (tmp_path / "new.safetensors").stat().st_size == layout(ENTRIES, METADATA).nbytes


def test_it_lies_as_the_library_lays_it(tmp_path):
    """Byte for byte where there is one entry of metadata, whose order the library leaves to chance."""
    write(tmp_path / "ours.safetensors")
    save_file(TENSORS, tmp_path / "theirs.safetensors", METADATA)
    ours, theirs = (read_header(tmp_path / f"{name}.safetensors").tensors for name in ("ours", "theirs"))
    data = [
        [(name, one.start - min(t.start for t in file.values())) for name, one in file.items()]
        for file in (ours, theirs)
    ]
    assert data[0] == data[1]


def test_order_and_pieces_make_no_difference(tmp_path):
    write(tmp_path / "one.safetensors")
    turned = dict(reversed(ENTRIES.items()))
    with new_tensor_file(tmp_path / "two.safetensors", layout(turned, METADATA)) as made:
        for name in turned:
            for offset in reversed(range(len(raw(name)))):
                made.write(name, raw(name)[offset : offset + 1], offset)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_nothing_is_left_after_an_error(tmp_path, error):
    with pytest.raises(type(error)), new_tensor_file(tmp_path / "new.safetensors", layout(ENTRIES, METADATA)) as made:
        made.write("wide", raw("wide"))
        assert [one.name for one in tmp_path.iterdir()] == ["new.safetensors.partial"]
        raise error
    assert not list(tmp_path.iterdir())


def test_what_came_meanwhile_under_its_name_stays(tmp_path):
    target = tmp_path / "new.safetensors"
    with pytest.raises(FileExistsError) as caught, new_tensor_file(target, layout(ENTRIES, METADATA)):
        target.write_text("somebody else's")
    assert caught.value.filename == str(target)
    assert target.read_text() == "somebody else's" and len(list(tmp_path.iterdir())) == 1


def test_what_another_writes_or_left_is_not_touched(tmp_path):
    unfinished = tmp_path / f"new.safetensors{UNFINISHED}"
    unfinished.write_text("half")
    with pytest.raises(FileExistsError) as caught:
        write(tmp_path / "new.safetensors")
    assert str(caught.value.filename) == str(unfinished)
    assert unfinished.read_text() == "half" and len(list(tmp_path.iterdir())) == 1
