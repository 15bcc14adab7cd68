import json

import pytest
import weight_headers as files

from klein9b.klein.safetensors_header import read_header
from klein9b.klein.weight_format import weight_format

SMALL = files.flux2(256, 12288, 2, 2)
KLEIN = files.flux2(**files.KLEIN_9B)
LAYERS = files.block_matrices(KLEIN)
FP8 = files.as_fp8(KLEIN, LAYERS)
INT8 = files.as_int8(KLEIN, LAYERS)
NVFP4 = files.as_nvfp4(KLEIN, LAYERS)


def read(tmp_path, tensors, metadata=None, blobs=None):
    return weight_format(read_header(files.write(tmp_path / "w.safetensors", tensors, metadata, blobs)))


@pytest.mark.parametrize(("dtype", "name"), [("BF16", "bf16"), ("F16", "fp16"), ("F32", "fp32")])
def test_plain_floats(tmp_path, dtype, name):
    weights = read(tmp_path, files.flux2(256, 12288, 2, 2, dtype=dtype))
    assert (weights.format, str(weights), weights.scaled, weights.unmarked) == (name, name, False, 0)
    assert weights.parts == {name: 1.0}


def test_official_fp8_has_scales_and_marks_in_its_metadata(tmp_path):
    weights = read(tmp_path, FP8, files.in_metadata(LAYERS, format="float8_e4m3fn"))
    assert (str(weights), weights.unmarked) == ("fp8_e4m3 with scales", 0)
    assert weights.parts["fp8_e4m3"] == pytest.approx(0.96, abs=0.005)
    assert weights.tensor_bytes == pytest.approx(9.43e9, rel=1e-3)
    assert weights.parameters == pytest.approx(9.08e9, rel=1e-3)


def test_fp8_without_scales_needs_no_marks(tmp_path):
    cast = {name: ("F8_E5M2", shape) for name, (_, shape) in SMALL.items()}
    weights = read(tmp_path, cast)
    assert (str(weights), weights.scaled, weights.unmarked) == ("fp8_e5m2", False, 0)


def test_older_fp8_files_mark_all_layers_at_once(tmp_path):
    legacy = files.as_legacy_fp8(KLEIN, LAYERS)
    assert (str(read(tmp_path, legacy)), read(tmp_path, legacy).unmarked) == ("fp8_e4m3 with scales", 0)
    del legacy["scaled_fp8"]
    assert read(tmp_path, legacy).unmarked == len(LAYERS)


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        ({"format": "int8_tensorwise"}, "int8"),
        ({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}, "int8_convrot"),
        ({"format": "int8_tensorwise", "params": {"convrot": True}}, "int8_convrot"),
        ({"format": "something_new"}, "something_new"),
    ],
)
def test_int8_marked_in_tensors(tmp_path, mark, name):
    weights = read(tmp_path, INT8, blobs=files.in_tensors(LAYERS, **mark))
    assert (weights.format, weights.scaled, weights.unmarked) == (name, True, 0)


def test_int8_without_marks_is_counted(tmp_path):
    weights = read(tmp_path, INT8)
    assert (weights.format, weights.unmarked) == ("int8", len(LAYERS))


def test_nvfp4_counts_two_weights_to_a_byte(tmp_path):
    weights = read(tmp_path, NVFP4, files.in_metadata(LAYERS, format="nvfp4"))
    plain = read(tmp_path, KLEIN)
    assert (str(weights), weights.unmarked) == ("nvfp4 with scales", 0)
    assert weights.parameters == plain.parameters


def test_mxfp8_is_told_by_its_block_scales(tmp_path):
    tensors = files.as_fp8(SMALL, files.block_matrices(SMALL), input_scale=False)
    for layer in files.block_matrices(SMALL):
        tensors[f"{layer}.weight_scale"] = ("U8", [tensors[f"{layer}.weight"][1][0], 8])
    assert "mxfp8" in read(tmp_path, tensors).parts


def test_mixed_names_its_parts(tmp_path):
    half = LAYERS[::2]
    tensors = files.as_nvfp4(files.as_fp8(KLEIN, [x for x in LAYERS if x not in half]), half)
    marks = {layer: {"format": "nvfp4" if layer in half else "float8_e4m3fn"} for layer in LAYERS}
    weights = read(tmp_path, tensors, {"_quantization_metadata": json.dumps({"layers": marks})})
    assert weights.format == "mixed" and weights.unmarked == 0
    assert str(weights) == "mixed (nvfp4 67%, fp8_e4m3 30%, bf16 4%)"


def test_marks_count_with_and_without_the_prefix(tmp_path):
    small = files.flux2(256, 12288, 2, 2, prefix="model.diffusion_model.")
    layers = files.block_matrices(small)
    bare = [layer.removeprefix("model.diffusion_model.") for layer in layers]
    tensors = files.as_fp8(small, layers)
    for named in (layers, bare):
        assert read(tmp_path, tensors, files.in_metadata(named, format="float8_e4m3fn")).unmarked == 0


@pytest.mark.parametrize("metadata", ["", "[]", "{", '{"layers": 3}', '{"layers": {"a": "b"}}', "[" * 9999])
def test_broken_marks_are_no_marks(tmp_path, metadata):
    tensors = files.as_fp8(SMALL, files.block_matrices(SMALL))
    weights = read(tmp_path, tensors, {"_quantization_metadata": metadata})
    assert weights.unmarked == len(files.block_matrices(SMALL))


def test_a_file_without_matrices_has_no_format(tmp_path):
    assert read(tmp_path, {"bias": ("F32", [4])}).format == "none"
