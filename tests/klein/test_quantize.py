"""Klein 9B into int8: comfy_kitchen's numbers bit for bit, in little memory, and nothing left when it fails."""

import errno
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import weight_headers as headers
from safetensors.torch import load_file, save_file

import standins
from klein9b.klein.checkpoint import inspect_diffusion_model, inspect_text_encoder
from klein9b.klein.quantize import GROUP, MADE_BY, CannotQuantize, new_size, plan_job, quantize
from klein9b.klein.safetensors_header import read_header
from klein9b.klein.tensor_file import TensorFile
from standins.quantised import quantised
from standins.text_encoder import text_encoder

MADE = {MADE_BY: "a test"}
MARK = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
OUTSIDE = {
    "img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.lin", "single_stream_modulation.lin", "final_layer.adaLN_modulation.1",
    "final_layer.linear",
}  # fmt: skip
KLEIN = headers.flux2(**headers.KLEIN_9B)
LAYERS = headers.block_matrices(KLEIN)


def without(name):
    return {one: value for one, value in KLEIN.items() if one != name}


def marked(format, layers=LAYERS):
    return headers.in_tensors(layers, format=format)


def bfloat16(weights):
    return {name: one.to(torch.bfloat16) for name, one in weights.items()}


def transformer(**shape):
    return bfloat16(standins.transformer(**shape))


def saved(folder, weights, name="flux-2-klein-9b.safetensors", metadata=None):
    save_file(weights, folder / name, metadata)
    return folder / name


def deaf(done, total):
    pass


def run(source, target=None, hear=deaf, metadata=MADE):
    """What was written, and the report."""
    target = target or source.with_name("new.safetensors")
    report = quantize(plan_job(source), target, metadata, hear)
    return load_file(target), report


def rounded(made):
    return {name.removesuffix(".weight") for name, one in made.items() if one.dtype == torch.int8}


def by_kitchen(weight):
    layout = pytest.importorskip("comfy_kitchen.tensor.int8", reason="comfy_kitchen is not installed")
    return layout.TensorWiseINT8Layout.quantize(weight.float(), per_channel=True, convrot=True)


def restored(made, layer):
    from klein9b.kernels.eager.rotate import rotate

    return rotate(made[f"{layer}.weight"] * made[f"{layer}.weight_scale"], GROUP)


def lost(made, layer, weight):
    return float((restored(made, layer) - weight).norm() / weight.norm())


@pytest.fixture
def source(tmp_path):
    return saved(tmp_path, transformer())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_it_is_what_comfy_kitchen_makes_of_the_weights_in_float32(tmp_path, dtype):
    weights = {name: one.to(dtype) for name, one in standins.transformer(double_blocks=1, single_blocks=1).items()}
    made, _ = run(saved(tmp_path, weights))
    assert rounded(made) == {
        name.removesuffix(".weight") for name in weights if "_blocks." in name and "norm" not in name
    }
    for layer in rounded(made):
        levels, params = by_kitchen(weights[f"{layer}.weight"])
        assert torch.equal(made[f"{layer}.weight"], levels), layer
        assert torch.equal(made[f"{layer}.weight_scale"], params.scale), layer
        assert json.loads(bytes(made[f"{layer}.comfy_quant"].tolist())) == MARK


def test_float32_loses_less_than_bfloat16_would(tmp_path):
    """The reason to differ from what comfy_kitchen makes of bfloat16 weights."""
    weight = transformer()["single_blocks.0.linear1.weight"]
    layout = pytest.importorskip("comfy_kitchen.tensor.int8", reason="comfy_kitchen is not installed")
    levels, params = layout.TensorWiseINT8Layout.quantize(weight, per_channel=True, convrot=True)
    theirs = {"a.weight": levels, "a.weight_scale": params.scale}
    made, _ = run(saved(tmp_path, transformer()))
    ours = lost(made, "single_blocks.0.linear1", weight.float())
    assert ours < 0.95 * lost(theirs, "a", weight.float())


def test_what_stands_outside_the_blocks_stays(source):
    made, report = run(source)
    weights = load_file(source)
    assert set(report.kept) == OUTSIDE
    for name, weight in weights.items():
        if name.removesuffix(".weight") not in rounded(made):
            assert made[name].dtype == weight.dtype and torch.equal(made[name], weight), name


def test_wide_matrices_outside_become_bfloat16_and_norms_do_not(tmp_path):
    weights = standins.transformer()
    made, _ = run(saved(tmp_path, weights))
    assert torch.equal(made["txt_in.weight"], weights["txt_in.weight"].to(torch.bfloat16))
    norm = "single_blocks.0.norm.query_norm.scale"
    assert made[norm].dtype == torch.float32 and torch.equal(made[norm], weights[norm])


def test_a_text_encoder_keeps_its_embedding_head_and_norms(tmp_path):
    weights = bfloat16(text_encoder(layers=2, head=True))
    made, report = run(saved(tmp_path, weights, "qwen_3_8b.safetensors"))
    assert rounded(made) == {
        f"model.layers.{i}.{name}_proj" for i in range(2)
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up")
    }  # fmt: skip
    # o_proj and down_proj have fewer than 256 input features in the stand-in alone.
    assert {"model.embed_tokens", "lm_head"} <= set(report.kept)
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.0.self_attn.q_norm.weight",
    ):
        assert torch.equal(made[name], weights[name])
    levels, _params = by_kitchen(weights["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(made["model.layers.1.mlp.up_proj.weight"], levels)


def test_a_real_text_encoder_keeps_its_embedding_and_head_alone(tmp_path):
    job = plan_job(headers.write(tmp_path / "qwen_3_8b.safetensors", headers.qwen3_8b()))
    assert len(job.rounded) == 36 * 7
    kept = {name for name, entry in job.entries.items() if len(entry.shape) > 1 and entry.dtype == "BF16"}
    assert kept == {"model.embed_tokens.weight", "lm_head.weight"}


class TestFp8:
    """Read as ComfyUI reads it, whichever of its marks the file carries."""

    LAYER = "double_blocks.0.img_mlp.0"

    def weights(self, scale=True):
        stored = quantised(transformer(), "float8_e4m3fn")
        return {name: one for name, one in stored.items() if scale or not name.endswith(("_scale", "comfy_quant"))}

    def values(self, stored, scale):
        return stored[f"{self.LAYER}.weight"].float() * stored[scale].float()

    def check(self, made, values):
        levels, params = by_kitchen(values)
        assert torch.equal(made[f"{self.LAYER}.weight"], levels)
        assert torch.equal(made[f"{self.LAYER}.weight_scale"], params.scale)
        assert json.loads(bytes(made[f"{self.LAYER}.comfy_quant"].tolist())) == MARK

    def test_marked_in_tensors(self, tmp_path):
        stored = self.weights() | {f"{self.LAYER}.input_scale": torch.tensor(0.5)}
        made, _ = run(saved(tmp_path, stored))
        self.check(made, self.values(stored, f"{self.LAYER}.weight_scale"))
        assert not any(name.endswith("input_scale") for name in made)

    def test_marked_in_the_metadata_which_the_new_file_does_not_repeat(self, tmp_path):
        stored = {name: one for name, one in self.weights().items() if not name.endswith("comfy_quant")}
        layers = [
            name.removesuffix("_scale").removesuffix(".weight") for name in stored if name.endswith("weight_scale")
        ]
        source = saved(tmp_path, stored, metadata=headers.in_metadata(layers, format="float8_e4m3fn"))
        made, _ = run(source)
        self.check(made, self.values(stored, f"{self.LAYER}.weight_scale"))
        assert "_quantization_metadata" not in read_header(tmp_path / "new.safetensors").metadata

    def test_of_the_older_kind(self, tmp_path):
        renamed = {name.replace("weight_scale", "scale_weight"): one for name, one in self.weights().items()}
        stored = {name: one for name, one in renamed.items() if not name.endswith("comfy_quant")}
        stored["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        made, _ = run(saved(tmp_path, stored))
        self.check(made, self.values(stored, f"{self.LAYER}.scale_weight"))
        assert not any(name.endswith(("scale_weight", "scaled_fp8")) for name in made)

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
    def test_without_scales(self, tmp_path, dtype):
        stored = {name: one.to(dtype) for name, one in transformer().items()}
        made, _report = run(saved(tmp_path, stored))
        self.check(made, stored[f"{self.LAYER}.weight"].float())
        assert torch.equal(made["txt_in.weight"], stored["txt_in.weight"].to(torch.bfloat16))
        assert not any(one.dtype == dtype for one in made.values())

    def test_a_scaled_matrix_outside_the_blocks_becomes_its_values(self, tmp_path):
        stored = quantised(transformer(), "float8_e4m3fn", r"_blocks\.|txt_in")
        made, _ = run(saved(tmp_path, stored))
        values = stored["txt_in.weight"].float() * stored["txt_in.weight_scale"]
        assert torch.equal(made["txt_in.weight"], values.to(torch.bfloat16))
        assert not any(name.startswith("txt_in.") and name != "txt_in.weight" for name in made)

    def test_beside_floats_as_in_the_official_text_encoder(self, tmp_path):
        stored = quantised(bfloat16(text_encoder(layers=2)), "float8_e4m3fn", r"self_attn\..*_proj")
        made, _ = run(saved(tmp_path, stored))
        assert "model.layers.0.self_attn.q_proj" in rounded(made) and "model.layers.0.mlp.up_proj" in rounded(made)


def test_a_prefix_of_checkpoints_stays(tmp_path):
    weights = {f"model.diffusion_model.{name}": one for name, one in transformer().items()}
    made, _ = run(saved(tmp_path, weights))
    plain, _ = run(saved(tmp_path, transformer()), tmp_path / "plain.safetensors")
    assert made.keys() == {f"model.diffusion_model.{name}" for name in plain}
    assert all(torch.equal(made[f"model.diffusion_model.{name}"], one) for name, one in plain.items())


def test_the_same_file_gives_the_same_bytes(source, tmp_path):
    run(source)
    run(source, tmp_path / "again.safetensors")
    assert (tmp_path / "new.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_the_file_says_what_made_it_and_of_what(tmp_path):
    source = saved(tmp_path, transformer(), "flux-2-klein-base-9b.safetensors", {"modelspec.author": "somebody"})
    run(source)
    assert read_header(tmp_path / "new.safetensors").metadata == {
        "klein9b.format": "int8_tensorwise convrot 256",
        "klein9b.quantized_by": "a test",
        "klein9b.source": "flux-2-klein-base-9b.safetensors",
        "klein_variant": "base",
        "modelspec.author": "somebody",
    }


def test_the_pack_knows_what_it_wrote(tmp_path):
    run(saved(tmp_path, transformer(double_blocks=8, single_blocks=24)))
    model = inspect_diffusion_model(tmp_path / "new.safetensors")
    assert (model.weights.format, model.weights.scaled, model.weights.unmarked) == ("int8_convrot", True, 0)
    assert (model.family.name, model.variant.name, model.missing) == ("KLEIN_9B", "distilled", ())
    run(saved(tmp_path, bfloat16(text_encoder()), "qwen.safetensors"), tmp_path / "text.safetensors")
    encoder = inspect_text_encoder(tmp_path / "text.safetensors")
    assert encoder.kind.value == "Qwen3-8B" and not encoder.weights.unmarked


def test_the_report_has_every_matrix_and_its_error(source):
    made, report = run(source)
    weights = load_file(source)
    assert {layer.name for layer in report.layers} == rounded(made)
    for layer in report.layers:
        assert layer.error == pytest.approx(lost(made, layer.name, weights[f"{layer.name}.weight"].float()), rel=1e-3)
        assert 0.003 < layer.error < 0.02
    assert report.before == source.stat().st_size
    assert report.after == source.with_name("new.safetensors").stat().st_size == new_size(plan_job(source), MADE)
    assert f"worst {report.worst.error:.2%} in {report.worst.name}" in report.summary()
    assert all(layer.name in report.table() for layer in report.layers)


def test_of_zeros_nothing_is_lost(tmp_path):
    weights = {name: torch.zeros_like(one) for name, one in transformer().items()}
    assert run(saved(tmp_path, weights))[1].worst.error == 0


def test_progress_goes_up_to_all_of_it(source):
    heard = []
    run(source, hear=lambda done, total: heard.append((done, total)))
    done, totals = zip(*heard, strict=True)
    assert list(done) == sorted(done) and len(heard) >= len(plan_job(source).entries) // 4
    assert heard[-1][0] == heard[-1][1] and len(set(totals)) == 1


def refused(path):
    with pytest.raises(CannotQuantize) as caught:
        plan_job(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "blobs", "told"),
    [
        (headers.lora(), {}, "is a LoRA: choose FLUX.2 [klein] 9B or its text encoder Qwen3-8B."),
        (headers.flux2(**headers.KLEIN_4B), {}, "is FLUX.2 [klein] 4B: choose"),
        (headers.flux1(), {}, "is FLUX.1: choose"),
        (headers.flux2_vae(), {}, "is the FLUX.2 VAE: choose"),
        (headers.qwen3_4b(), {}, "is the text encoder Qwen3-4B: choose"),
        (headers.klein_diffusers(), {}, "in diffusers' tensor names, which ComfyUI does not read for FLUX.2: choose"),
        (KLEIN | {"vae.a.weight": ("BF16", [1])}, {}, "is a full checkpoint of FLUX.2 [klein] 9B"),
        (without("txt_in.weight"), {}, ": choose FLUX.2 [klein] 9B"),
        (without("final_layer.linear.weight"), {}, "without its tensor final_layer.linear"),
        (headers.as_nvfp4(KLEIN, LAYERS), marked("nvfp4"), "is nvfp4 with scales, which has lost"),
        (headers.as_int8(KLEIN, LAYERS), headers.in_tensors(LAYERS, **MARK), "is int8_convrot already."),
        (headers.as_int8(KLEIN, LAYERS), {}, "is int8 already."),
        (headers.as_fp8(KLEIN, LAYERS), {}, "fp8_e4m3 with scales but without ComfyUI's marks"),
        (
            headers.as_fp8(KLEIN, LAYERS) | {f"{LAYERS[0]}.weight_scale": ("F32", [12288, 1])},
            marked("float8_e4m3fn"),
            "has more than one scale in double_blocks.0.img_attn.qkv.weight_scale",
        ),
        (
            headers.as_nvfp4(headers.as_fp8(KLEIN, LAYERS[:60]), LAYERS[60:]),
            marked("float8_e4m3fn", LAYERS[:60]) | marked("nvfp4", LAYERS[60:]),
            "is mixed (nvfp4 ",
        ),
    ],
)  # fmt: skip
def test_another_file_is_named(tmp_path, tensors, blobs, told):
    path = headers.write(tmp_path / "chosen.safetensors", tensors, blobs=blobs)
    sentence = refused(path)
    assert sentence.startswith("chosen.safetensors ") and told in sentence and sentence.endswith(".")
    assert sentence.count(". ") <= 1 and len(list(tmp_path.iterdir())) == 1


def test_a_part_of_a_download_is_named(tmp_path):
    path = headers.write(tmp_path / "klein-00001-of-00002.safetensors", KLEIN)
    assert "is part 1 of 2 of a split download" in refused(path)


def test_a_broken_file_is_named(source):
    with source.open("r+b") as file:
        file.truncate(source.stat().st_size - 1)
    assert refused(source).startswith("flux-2-klein-9b.safetensors is cut short")


def failing(source, error, **changes):
    """The sentence, when a run fails; nothing may be left beside the source."""
    with pytest.raises(error) as caught:
        run(source, **changes)
    assert [one.name for one in source.parent.iterdir()] == [source.name]
    return str(caught.value)


def at_the_third(act):
    heard = []

    def hear(done, total):
        heard.append(done)
        if len(heard) == 3:
            act()

    return hear


class Cancelled(BaseException):
    pass


def test_cancelled_in_the_middle_nothing_is_left(source):
    def cancel():
        raise Cancelled

    failing(source, Cancelled, hear=at_the_third(cancel))


def test_a_full_disk_in_the_middle_leaves_nothing(source, monkeypatch):
    write, written = TensorFile.write, []

    def full(self, name, data, offset=0):
        written.append(name)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, data, offset)

    monkeypatch.setattr(TensorFile, "write", full)
    assert "No space left" in failing(source, OSError)


def test_a_source_cut_short_meanwhile_is_told(source):
    told = failing(source, CannotQuantize, hear=at_the_third(lambda: os.truncate(source, 10**6)))
    assert told == "flux-2-klein-9b.safetensors became shorter while it was read: download it again."


def test_a_source_on_a_failing_disk_is_told(source, monkeypatch):
    class Failing(io.BytesIO):
        def readinto(self, data):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    job, opened = plan_job(source), Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Failing() if self == source else opened(self, *a, **k))
    monkeypatch.setattr("klein9b.klein.quantize.file_identity", lambda path: None)
    with pytest.raises(CannotQuantize, match=r"^flux-2-klein-9b.safetensors cannot be read \(Input/output error\)\.$"):
        quantize(job, source.with_name("new.safetensors"), MADE, deaf)
    assert [one.name for one in source.parent.iterdir()] == [source.name]


def test_a_source_that_changes_meanwhile_is_told(source):
    def change():
        with source.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"x")

    assert "changed while it was read" in failing(source, CannotQuantize, hear=at_the_third(change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_told(tmp_path, value):
    weights = transformer()
    weights["single_blocks.1.linear2.weight"][3, 5] = value
    told = failing(saved(tmp_path, weights), CannotQuantize)
    assert "has weights in single_blocks.1.linear2.weight that are not finite numbers" in told


def test_blocks_of_rows_are_the_matrix_at_once(tmp_path):
    """More rows than a block holds, and not a multiple of it."""
    weights = transformer(hidden=768, double_blocks=1, single_blocks=1)
    made, _ = run(saved(tmp_path, weights))
    weight = weights["single_blocks.0.linear1.weight"]
    assert weight.numel() > 2**20 and weight.shape[0] % (2**20 // weight.shape[1])
    levels, params = by_kitchen(weight)
    assert torch.equal(made["single_blocks.0.linear1.weight"], levels)
    assert torch.equal(made["single_blocks.0.linear1.weight_scale"], params.scale)


CHILD = """
    import resource, sys, types
    pack = types.ModuleType("klein9b")
    pack.__path__ = [sys.argv[1]]
    sys.modules["klein9b"] = pack
    import torch
    from pathlib import Path
    from klein9b.klein.quantize import plan_job, quantize
    quantize(plan_job(Path(sys.argv[4])), Path(sys.argv[4] + "-warm.safetensors"), {}, lambda done, total: None)
    (taken,) = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize")]
    limit = taken + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    quantize(plan_job(Path(sys.argv[2])), Path(sys.argv[2] + "-int8.safetensors"), {}, lambda done, total: None)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to its address space")
def test_true_shapes_fit_beside_little_memory(tmp_path):
    """128 MiB are less than half of the largest matrix, 36864 x 4096, as it is stored: no matrix is ever in memory
    whole, so neither their number nor the file's size makes a difference."""
    small = saved(tmp_path, transformer(double_blocks=1, single_blocks=1), "small")
    large = headers.write(tmp_path / "large", headers.flux2(**headers.KLEIN_9B | {"double": 0, "single": 1}))
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(Path(__file__).parents[2])]
    limit = [str(large), str(2**27), str(small)]
    answer = subprocess.run(
        [*command, *limit], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert inspect_diffusion_model(f"{large}-int8.safetensors").weights.unmarked == 0
