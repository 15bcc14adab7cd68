"""LoRA files read by names and shapes: all of Klein's linears at full size, other families, and garbage."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import standins
from klein9b.klein.lora import not_placed, plan_lora, refuse_unplaced, tensors_for_host
from klein9b.klein.lora_names import find_place
from klein9b.klein.lora_parts import parse_key
from klein9b.klein.vram import KLEIN_9B, Dims
from standins import loras
from standins.loras import OF_BFL, OF_DIFFUSERS

SMALL = Dims(256, 2, 2)
KLEIN_4B = Dims(3072, 5, 20, 7680)


def shapes_of(dialect, linears, rank=4):
    """Of a file's tensors, which are not made."""
    shapes = {}
    for module, (rows, columns) in linears.items():
        with torch.device("meta"):
            keys = dialect.keys(module, torch.empty(rank, columns), torch.empty(rows, rank), 1.0)
        shapes |= {key: tuple(tensor.shape) for key, tensor in keys.items()}
    return shapes


@pytest.fixture(scope="module")
def full_size_linears():
    """Of diffusers' Klein 9B, without its weights."""
    pytest.importorskip("diffusers")
    from host.launch import cope_with_cpu_wheels

    cope_with_cpu_wheels()
    from diffusers import Flux2Transformer2DModel

    with torch.device("meta"):
        model = Flux2Transformer2DModel(
            num_layers=8,
            num_single_layers=24,
            attention_head_dim=128,
            num_attention_heads=32,
            joint_attention_dim=12288,
            guidance_embeds=False,
        )
    return loras.diffusers_linears(model)


@pytest.mark.peer
@pytest.mark.parametrize("dialect", OF_DIFFUSERS.values(), ids=OF_DIFFUSERS.keys())
def test_all_153_linears_of_klein_9b_have_a_place(full_size_linears, dialect):
    """Together they are each row of each of the 121 matrices once."""
    plan = plan_lora(shapes_of(dialect, full_size_linears), KLEIN_9B, {})
    assert len(full_size_linears) == len(plan.adapters) == 153 and plan.unplaced == ()
    rows = {}
    for one in plan.adapters:
        rows.setdefault((one.place.layer, one.place.of_rows), []).extend((one.place.start, one.place.rows))
    assert len(rows) == 121
    for (_, of_rows), parts in rows.items():
        assert sum(parts[1::2]) == of_rows and parts[::2] == [
            sum(parts[1 : 2 * i + 1 : 2]) for i in range(len(parts) // 2)
        ]


@pytest.mark.parametrize("dialect", OF_BFL.values(), ids=OF_BFL.keys())
def test_all_121_matrices_have_a_place(dialect):
    weights = standins.transformer(hidden=128, double_blocks=8, single_blocks=24)
    linears = loras.bfl_linears(weights)
    plan = plan_lora(shapes_of(dialect, linears), Dims(128, 8, 24), {})
    assert [one.place.layer for one in plan.adapters] == list(linears) and len(linears) == 121
    assert plan.unplaced == ()


@pytest.mark.parametrize(
    ("files", "family"),
    [
        ({"diffusion_model.double_blocks.4.img_attn.qkv": (9216, 3072)}, r"FLUX.2 \[klein\] 4B"),
        ({"transformer.single_transformer_blocks.19.attn.to_out": (3072, 12288)}, r"FLUX.2 \[klein\] 4B"),
        ({"transformer.single_transformer_blocks.47.attn.to_out": (6144, 24576)}, r"FLUX.2 \[dev\]"),
        ({"lora_unet_double_blocks_18_img_mlp_0": (12288, 3072)}, "FLUX.1"),
        ({"transformer.transformer_blocks.9.attn.to_q": (3072, 3072)}, "FLUX.1"),
        ({"lora_unet_double_blocks_0_img_mod_lin": (18432, 3072)}, "FLUX.1"),
        ({"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (640, 640)}, "Stable Diffusion"),
        ({"transformer.transformer_blocks.0.img_mlp.net.2": (3072, 12288)}, "Qwen-Image"),
        ({"diffusion_model.layers.0.attention.qkv": (11520, 3840)}, "Z-Image"),
        ({"diffusion_model.blocks.0.cross_attn.k": (5120, 5120)}, "Wan"),
    ],
)
def test_other_families_are_refused_in_one_sentence(files, family):
    shapes = shapes_of(OF_BFL["bfl"], files)
    with pytest.raises(
        ValueError, match=rf"^x.safetensors is made for {family}.*, but the model is FLUX.2 \[klein\] 9B"
    ):
        refuse_unplaced(plan_lora(shapes, KLEIN_9B, {}), shapes, KLEIN_9B, "x.safetensors")


def test_one_for_9b_on_4b():
    shapes = shapes_of(OF_BFL["bfl"], {"double_blocks.4.img_attn.qkv": (12288, 4096)})
    with pytest.raises(ValueError, match=r"^x is made for FLUX.2 \[klein\] 9B, but the model is FLUX.2 \[klein\] 4B"):
        refuse_unplaced(plan_lora(shapes, KLEIN_4B, {}), shapes, KLEIN_4B, "x")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"lora_A.weight": (4, 256)}, "its up half is missing"),
        ({"lora_B.weight": (256, 4)}, "its down half is missing"),
        ({"lora_A.weight": (4, 256), "lora_B.weight": (256, 8)}, "its halves are of rank 8 and 4"),
        (
            {"lora_A.weight": (4, 256), "lora_B.weight": (512, 4)},
            "it is made for a layer of 512x256, Klein's has 256x256",
        ),
        ({"lora_A.weight": (4, 256), "lora_B.weight": (256, 4), "alpha": (2,)}, "its alpha is not one number"),
        ({"lora_A.weight": (0, 256), "lora_B.weight": (256, 0)}, "its tensors are no matrices"),
        ({"lora_A.weight": (4,), "lora_B.weight": (256, 4)}, "its tensors are no matrices"),
        (
            {"lora_A.weight": (4, 256), "lora_B.weight": (256, 4), "diff": (256, 256)},
            "it is LoRA and full weights at once",
        ),
        (
            {"lora_A.weight": (4, 256), "lora_B.weight": (256, 4), "lora_magnitude_vector": (768,)},
            "its magnitudes of 768 are neither of rows nor of columns",
        ),
        (
            {"lora_A.weight": (4, 256), "lora_B.weight": (256, 4), "dora_scale": (256, 256)},
            "its magnitudes of 256x256 are neither of rows nor of columns",
        ),
        ({"diff": (256, 256), "dora_scale": (256, 1)}, "its magnitudes belong to no LoRA"),
        ({"alpha": ()}, "it is an alpha or a scale alone"),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (64, 2)}, "its lokr_w2_b is missing"),
        ({"lokr_w1": (4, 4), "lokr_w2": (64, 32)}, "it is made for a layer of 256x128, Klein's has 256x256"),
        (
            {"lokr_w1": (4, 4), "lokr_w2_a": (64, 2), "lokr_w2_b": (2, 64), "lokr_t2": (2, 2, 1, 1)},
            "it is made for a convolution",
        ),
        ({"hada_w1_a": (256, 4), "hada_w1_b": (4, 256), "hada_w2_a": (256, 4)}, "its hada_w2_b is missing"),
    ],
)
def test_why_a_module_is_left_out(parts, reason):
    shapes = {f"diffusion_model.double_blocks.0.img_attn.proj.{part}": shape for part, shape in parts.items()}
    (one,) = plan_lora(shapes, SMALL, {}).unplaced
    assert one.reason == reason and set(one.keys) == set(shapes)


def test_a_lokr_of_an_odd_first_factor_has_no_halves():
    """On diffusers' last norm, whose halves lie the other way round."""
    dims = Dims(384, 1, 1)
    shapes = {"transformer.norm_out.linear.lokr_w1": (3, 2), "transformer.norm_out.linear.lokr_w2": (256, 192)}
    (one,) = plan_lora(shapes, dims, {}).unplaced
    assert "a LoKr of an odd first factor has no halves" in one.reason
    bfl = {
        key.replace("transformer.norm_out.linear", "final_layer.adaLN_modulation.1"): one for key, one in shapes.items()
    }
    assert len(plan_lora(bfl, dims, {}).adapters) == 1


def test_one_layer_named_twice_is_placed_once():
    twice = shapes_of(OF_BFL["kohya"], {"img_in": (256, 128)}) | shapes_of(
        OF_DIFFUSERS["diffusers"], {"x_embedder": (256, 128)}
    )
    plan = plan_lora(twice, SMALL, {})
    assert len(plan.adapters) == 1
    assert plan.unplaced[0].reason == "lora_unet_img_in changes the same layer"


def test_keys_are_named_and_counted():
    shapes = {f"diffusion_model.single_blocks.{i}.linear1.lora_A.weight": (4, 256) for i in range(2, 9)}
    (line,) = not_placed(plan_lora(shapes, SMALL, {}), most=2)
    assert line == (
        "not placed, Klein has no such layer: diffusion_model.single_blocks.2.linear1.lora_A.weight, "
        "diffusion_model.single_blocks.3.linear1.lora_A.weight and 5 more"
    )


WORDS = [
    "diffusion_model", "transformer", "base_model", "model", "lora", "unet", "lora_A", "lora_B", "lora_up",
    "weight", "default", "bias", "alpha", "lokr_w1", "lokr_w2_a", "hada_w1_a", "hada_w1_b", "hada_t1", "diff",
    "dora_scale", "double_blocks", "transformer_blocks", "single_blocks", "0", "1", "99", "attn", "img_attn",
    "qkv", "to_q", "norm_out", "linear", "final_layer", "adaLN_modulation", "img_in",
]  # fmt: skip
PIECES = st.sampled_from(WORDS)
KEYS = st.builds(
    lambda parts, between: between.join(parts), st.lists(PIECES, min_size=1, max_size=7), st.sampled_from("._")
)
SIZES = st.lists(st.sampled_from([0, 1, 2, 4, 128, 256, 512, 768]), max_size=4).map(tuple)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS | st.text(max_size=20), SIZES, max_size=6))
def test_garbage_is_placed_or_named_and_never_crashes(shapes):
    plan = plan_lora(shapes, SMALL, {"lora_adapter_metadata": "{"})
    named = [key for one in plan.unplaced for key in one.keys]
    placed = [key for one in plan.adapters for key in one.parts.values()]
    assert sorted(named + placed) == sorted(shapes)
    tensors = tensors_for_host(plan, {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert len(tensors) == len(placed)
    if shapes and not placed:
        with pytest.raises(ValueError, match="^x "):
            refuse_unplaced(plan, shapes, SMALL, "x")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_any_name_is_parsed(key):
    module, part = parse_key(key)
    assert module if key else not part
    assert find_place(module, SMALL) is None or part == "" or key.startswith(module)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["lora_alpha", "alpha_pattern", "use_rslora", "r"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda one: st.lists(one) | st.dictionaries(st.text(), one),
        ),
    )
)
def test_any_metadata_are_read(config):
    shapes = shapes_of(OF_BFL["bfl"], {"img_in": (256, 128)})
    assert len(plan_lora(shapes, SMALL, {"lora_adapter_metadata": json.dumps(config)}).adapters) == 1
