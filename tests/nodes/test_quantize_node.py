"""Klein 9B Quantize in the real host: stock loads what it writes, pictures stay close, and it refuses in a sentence."""

import errno
import json
import shutil

import pytest
import torch
from prompt_encoding import stock_clip, stock_encode
from safetensors.torch import load_file, save_file

import standins
from host.edits import edit, relative
from standins.quantised import quantised
from standins.text_encoder import text_encoder

MODEL, ENCODER = "flux-2-klein-9b.safetensors", "qwen_3_8b.safetensors"
MADE = "flux-2-klein-9b-int8.safetensors"
LAYER = "single_blocks.0.linear1"


@pytest.fixture
def folders(comfy_host, shrunk, tmp_path, monkeypatch):
    """A models folder with one model in bfloat16."""
    import folder_paths

    for kind in ("diffusion_models", "text_encoders"):
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    save_file(bfloat16(standins.transformer()), tmp_path / "diffusion_models" / MODEL)
    return tmp_path


@pytest.fixture
def shown(monkeypatch):
    from klein9b.nodes import quantize

    texts = []
    monkeypatch.setattr(quantize, "show_text", lambda node, text: texts.append(text))
    return texts


@pytest.fixture
def run(folders, shown):
    from klein9b.nodes.quantize import Klein9BQuantize

    def run(file=f"diffusion_models/{MODEL}", name=""):
        return Klein9BQuantize.execute(file=file, name=name)

    return run


def bfloat16(weights):
    return {name: one.to(torch.bfloat16) for name, one in weights.items()}


def stock_model(name):
    """As a graph loads it; weights that are quantised cannot be moved to and fro otherwise."""
    import nodes

    with torch.inference_mode():
        return nodes.UNETLoader().load_unet(name, "default")[0]


def files_of(folder):
    return sorted(one.name for one in folder.iterdir())


def refusal(run, shown, **inputs):
    """The sentence under the node, which stops what is connected to it and nothing else."""
    output = run(**inputs)
    assert output.block_execution == shown[-1] and len(shown) == 1
    return shown[0]


def test_stock_loads_the_model_as_int8_and_the_picture_stays_close(run, folders):
    from comfy.quant_ops import QuantizedTensor

    run()
    save_file(
        quantised(load_file(folders / "diffusion_models" / MODEL), "float8_e4m3fn"),
        folders / "diffusion_models" / "fp8.safetensors",
    )
    made = stock_model(MADE)
    block = made.model.diffusion_model.single_blocks[0]
    weight = block.linear1.weight
    assert isinstance(weight, QuantizedTensor) and weight._qdata.dtype == torch.int8
    assert weight._params.convrot and weight._params.convrot_groupsize == 256
    wanted = edit(stock_model(MODEL))
    int8, fp8 = relative(edit(made), wanted), relative(edit(stock_model("fp8.safetensors")), wanted)
    assert 0 < int8 < 0.005 and int8 < 0.6 * fp8


def test_weights_without_their_rotation_would_be_another_picture(run, folders):
    """The test above fails on a file that forgets to say that it is rotated."""
    run()
    weights = load_file(folders / "diffusion_models" / MADE)
    mark = torch.tensor(list(json.dumps({"format": "int8_tensorwise"}).encode()), dtype=torch.uint8)
    forgetful = {name: mark.clone() if name.endswith("comfy_quant") else one for name, one in weights.items()}
    save_file(forgetful, folders / "diffusion_models" / "forgetful.safetensors")
    assert relative(edit(stock_model("forgetful.safetensors")), edit(stock_model(MODEL))) > 0.1


def test_a_lora_changes_the_int8_model_as_it_changes_the_other(run, folders):
    import comfy.sd

    run()
    down = torch.randn(4, 256, generator=torch.Generator().manual_seed(1)) / 16
    up = torch.randn(2304, 4, generator=torch.Generator().manual_seed(2)) / 2
    lora = {f"diffusion_model.{LAYER}.lora_A.weight": down, f"diffusion_model.{LAYER}.lora_B.weight": up}

    def with_lora(model):
        with torch.inference_mode():
            return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]

    plain, made = stock_model(MODEL), stock_model(MADE)
    wanted = edit(with_lora(plain))
    moved = relative(wanted, edit(plain))
    assert moved > 0.1
    assert relative(edit(with_lora(made)), wanted) < 0.05 * moved


def test_stock_loads_the_text_encoder_and_reads_nearly_the_same(run, folders):
    from comfy.quant_ops import QuantizedTensor

    save_file(bfloat16(text_encoder()), folders / "text_encoders" / ENCODER)
    run(file=f"text_encoders/{ENCODER}")
    made = stock_clip(folders / "text_encoders" / "qwen_3_8b_int8.safetensors")
    decoder = made.cond_stage_model.qwen3_8b.transformer.model
    assert isinstance(decoder.layers[5].mlp.up_proj.weight, QuantizedTensor)
    assert decoder.embed_tokens.weight.dtype == torch.bfloat16
    wanted = stock_encode(stock_clip(folders / "text_encoders" / ENCODER), "a red fox")[0][0]
    assert 0 < relative(stock_encode(made, "a red fox")[0][0], wanted) < 0.03


def test_our_loader_takes_what_it_wrote(run, folders, models):
    from klein9b.nodes.host.loaded_klein import loaded_klein
    from klein9b.nodes.loader import Klein9BLoader

    run()
    for kind, name in (("text_encoders", standins.TEXT_ENCODER), ("vae", "flux2-vae.safetensors")):
        (folders / kind).mkdir(exist_ok=True)
        if not (folders / kind / name).exists():
            (folders / kind / name).symlink_to(models / kind / name)
    with torch.inference_mode():
        output = Klein9BLoader.execute(MADE, standins.TEXT_ENCODER, "flux2-vae.safetensors", "auto")
    kept = loaded_klein(output.args[0])
    assert kept.variant.name == "distilled" and "int8_convrot" in kept.summary


def test_our_plan_counts_what_it_wrote(run, folders):
    from klein9b.nodes.plan import Klein9BPlan

    run()
    asked = {"width": 1024, "height": 1024, "references": 0, "reference_megapixels": 1.0, "cfg": 1.0, "batch_size": 1}
    files = {"diffusion_model": MADE, "text_encoder": "qwen_3_8b.safetensors", "vae": "flux2-vae.safetensors"}
    plan = Klein9BPlan.execute(**files, **asked, reference_cache="off", vram_gib=12.0, ram_gib=32.0).args[0]
    size = (folders / "diffusion_models" / MADE).stat().st_size
    assert plan.startswith("It fits: ") and f"Diffusion model: {size / 1e6:.0f} MB, " in plan
    assert "qwen_3_8b" in plan.split("To download: ")[1] and MADE not in plan


@pytest.mark.parametrize(
    "mark",
    [
        {"format": "int8_tensorwise", "params": {"convrot": True, "convrot_groupsize": 256}},
        {"format": "int8_tensorwise", "params": {"convrot": True}},
        {"format": "int8_tensorwise", "convrot": True, "per_row": True, "orig_dtype": "torch.bfloat16"},
    ],
    ids=["params", "params without a group", "convert-to-quant"],
)  # fmt: skip
@pytest.mark.parametrize("rows", ["column", "flat"])
def test_files_of_the_community_are_the_same_to_host_and_pack(run, folders, mark, rows):
    from klein9b.klein.checkpoint import inspect_diffusion_model

    run()
    theirs = {}
    for name, one in load_file(folders / "diffusion_models" / MADE).items():
        if name.endswith("comfy_quant"):
            one = torch.tensor(list(json.dumps(mark).encode()), dtype=torch.uint8)
        theirs[name] = one.flatten() if name.endswith("weight_scale") and rows == "flat" else one
    path = folders / "diffusion_models" / "theirs.safetensors"
    save_file(theirs, path)
    weights = inspect_diffusion_model(path).weights
    assert set(weights.parts) == {"int8_convrot", "bf16"} and not weights.unmarked
    if rows == "column":
        assert torch.equal(edit(stock_model("theirs.safetensors")), edit(stock_model(MADE)))


def test_the_report_is_under_the_node_and_goes_on(run, shown, folders):
    report = run().args[0]
    assert shown == [report.split("\n\n")[0]]
    assert shown[0].startswith(f"{MADE}: 0.01 GB, from 0.02 GB.\n20 matrices in int8, 9 kept.\nError of a matrix: ")
    assert LAYER in report and "kept  final_layer.linear" in report


def test_files_are_listed_with_their_folder_and_only_those_it_reads(run, folders):
    from klein9b.nodes.quantize import Klein9BQuantize

    (folders / "diffusion_models" / "inner").mkdir()
    save_file({"a": torch.zeros(1)}, folders / "diffusion_models" / "inner" / "b.safetensors")
    save_file({"a": torch.zeros(1)}, folders / "text_encoders" / MODEL)
    assert Klein9BQuantize.INPUT_TYPES()["required"]["file"][1]["options"] == [
        f"diffusion_models/{MODEL}", f"text_encoders/{MODEL}", "diffusion_models/inner/b.safetensors",
    ]  # fmt: skip


def test_the_new_file_lies_beside_the_old_one(run, folders):
    inner = folders / "diffusion_models" / "inner"
    inner.mkdir()
    shutil.copy(folders / "diffusion_models" / MODEL, inner / MODEL)
    run(file=f"diffusion_models/inner/{MODEL}", name=" mine ")
    assert files_of(inner) == [MODEL, "mine.safetensors"]


@pytest.mark.parametrize(
    ("file", "asked", "made"),
    [
        ("flux-2-klein-9b.safetensors", "", "flux-2-klein-9b-int8.safetensors"),
        ("flux-2-klein-base-9b-fp8.safetensors", "", "flux-2-klein-base-9b-int8.safetensors"),
        ("qwen_3_8b_fp8mixed.safetensors", "", "qwen_3_8b_int8.safetensors"),
        ("my tune.BF16.safetensors", "", "my tune-int8.safetensors"),
        ("fp8.safetensors", "", "fp8-int8.safetensors"),
        ("a.safetensors", "b.c", "b.c.safetensors"),
        ("a.safetensors", "b.sft", "b.sft"),
    ],
)
def test_names(comfy_host, tmp_path, file, asked, made):
    from klein9b.nodes.quantize import new_name

    assert new_name(tmp_path / file, asked) == made


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", "C:a", ".hidden", "a\0b", "..", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(run, shown, folders, name):
    told = refusal(run, shown, name=name)
    assert told.startswith(f"name is {name!r}, but must be a file's name without a folder")
    assert files_of(folders / "diffusion_models") == [MODEL]


def test_a_file_that_is_there_is_never_overwritten(run, shown, folders):
    (folders / "diffusion_models" / MADE).write_text("mine")
    told = refusal(run, shown)
    assert told.startswith(f"{MADE} is in ") and "is not overwritten: give another name, or delete it." in told
    assert (folders / "diffusion_models" / MADE).read_text() == "mine"


def test_its_own_file_is_no_target(run, shown, folders):
    before = (folders / "diffusion_models" / MODEL).read_bytes()
    assert "is not overwritten" in refusal(run, shown, name=MODEL)
    assert (folders / "diffusion_models" / MODEL).read_bytes() == before


def test_what_a_stopped_run_left_is_named(run, shown, folders):
    (folders / "diffusion_models" / f"{MADE}.partial").write_text("half")
    told = refusal(run, shown)
    assert told.startswith(f"{MADE}.partial is in ") and "Delete it if nothing writes it." in told


def test_a_file_that_is_no_klein_is_named(run, shown, folders):
    save_file({"x.lora_A.weight": torch.zeros(1, 1)}, folders / "diffusion_models" / "style.safetensors")
    told = refusal(run, shown, file="diffusion_models/style.safetensors")
    assert told == "style.safetensors is a LoRA: choose FLUX.2 [klein] 9B or its text encoder Qwen3-8B."


def test_too_little_room_is_told_before_anything_is_written(run, shown, folders, monkeypatch):
    from klein9b.nodes import quantize

    usage = shutil.disk_usage(folders)._replace(free=10**6)
    monkeypatch.setattr(quantize.shutil, "disk_usage", lambda path: usage)
    told = refusal(run, shown)
    assert told.startswith(f"{MADE} needs 0.01 GB in ") and told.endswith("0.00 GB are free there: make room first.")
    assert files_of(folders / "diffusion_models") == [MODEL]


@pytest.mark.parametrize(
    ("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only file system")]
)
def test_a_disk_that_fails_in_the_middle_is_told_and_nothing_is_left(run, shown, folders, monkeypatch, number, why):
    import os

    from klein9b.klein.tensor_file import TensorFile

    write, written = TensorFile.write, []

    def failing(self, *args):
        written.append(args[0])
        if len(written) == 7:
            raise OSError(number, os.strerror(number))
        write(self, *args)

    monkeypatch.setattr(TensorFile, "write", failing)
    told = refusal(run, shown)
    assert told.startswith(f"{MADE} could not be written to ") and f"({why})" in told
    assert files_of(folders / "diffusion_models") == [MODEL]


def test_cancel_ends_it_and_leaves_nothing(run, folders, monkeypatch):
    import comfy.model_management as management
    import comfy.utils

    seen = []

    def cancel_in_the_middle(self, value, *args):
        seen.append(value)
        management.interrupt_current_processing(value > 30)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancel_in_the_middle)
    with pytest.raises(management.InterruptProcessingException):
        run()
    assert seen == sorted(seen) and 30 < seen[-1] < 90
    assert files_of(folders / "diffusion_models") == [MODEL]


def test_progress_reaches_the_end(run, monkeypatch):
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda self, value, *args: seen.append(value))
    run()
    assert seen == sorted(seen) and seen[-1] == 100


@pytest.mark.parametrize("lacks", ["format", "rotation", "kitchen"])
def test_a_host_that_would_not_load_it_is_told(run, shown, folders, monkeypatch, lacks):
    import comfy.quant_ops

    class Older:
        class Params:
            __dataclass_fields__ = {"scale": None, "orig_dtype": None}

    if lacks == "format":
        monkeypatch.delitem(comfy.quant_ops.QUANT_ALGOS, "int8_tensorwise")
    else:
        monkeypatch.setattr(comfy.quant_ops, "get_layout_class", lambda name: None if lacks == "kitchen" else Older)
    told = refusal(run, shown)
    assert told.startswith("ComfyUI ") and "does not load int8 with rotation" in told
    assert files_of(folders / "diffusion_models") == [MODEL]


def test_the_pack_and_its_version_are_in_the_file(run, folders):
    from klein9b.klein.safetensors_header import read_header

    run()
    metadata = read_header(folders / "diffusion_models" / MADE).metadata
    assert metadata["klein9b.quantized_by"].startswith("Klein 9B 0.") and metadata["klein9b.source"] == MODEL
