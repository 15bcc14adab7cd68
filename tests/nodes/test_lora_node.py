"""Klein 9B LoRA in the real host: every dialect makes the difference it was written with."""

import json

import pytest
import torch
from safetensors.torch import save_file

import standins
from host.accelerating import Accelerated
from host.edits import KV_SEED, cached, edit, klein_model, normal, prompt, reference, relative
from standins import loras
from standins.loras import OF_BFL, OF_DIFFUSERS

DELTA = 1e-6
ADA_LN = "final_layer.adaLN_modulation.1"
SIGMA = 0.7
LATENT = normal(1, 128, 4, 7, seed=3)
WEIGHTS = standins.transformer(seed=KV_SEED)


@pytest.fixture(scope="module")
def folder(comfy_host, tmp_path_factory):
    """models/loras."""
    import folder_paths

    before = folder_paths.folder_names_and_paths["loras"]
    root = tmp_path_factory.mktemp("loras")
    folder_paths.folder_names_and_paths["loras"] = ([str(root)], {".safetensors", ".pt"})
    yield root
    folder_paths.folder_names_and_paths["loras"] = before


@pytest.fixture
def texts(monkeypatch):
    from klein9b.nodes import lora

    shown = []
    monkeypatch.setattr(lora, "show_text", lambda node, text: shown.append(text))
    return shown


@pytest.fixture
def apply(folder, texts):
    """The model behind the node with a file of these tensors."""
    from klein9b.nodes.lora import Klein9BLora

    def behind(file, model=None, strength=1.0, name="one.safetensors", metadata=None):
        save_file({key: tensor.contiguous() for key, tensor in file.items()}, folder / name, metadata)
        return Klein9BLora.execute(model or klein_model(), name, strength).args[0]

    return behind


@pytest.fixture(scope="module")
def diffusers_model():
    pytest.importorskip("diffusers")
    from standins.peers import diffusers_transformer

    return diffusers_transformer(WEIGHTS)


def delta(model, layer):
    """What the host adds to a weight."""
    import comfy.lora

    key = f"diffusion_model.{layer}.weight"
    zeros = torch.zeros_like(WEIGHTS[f"{layer}.weight"])
    return comfy.lora.calculate_weight(model.patches[key], zeros, key)


@pytest.mark.parametrize("dialect", OF_BFL.values(), ids=OF_BFL.keys())
def test_bfl_names(apply, texts, dialect):
    linears = loras.bfl_linears(WEIGHTS)
    file, deltas = loras.lora(dialect, linears)
    model = apply(file)
    assert len(model.patches) == len(linears) == 8 * 2 + 2 * 2 + 9
    assert all(relative(delta(model, layer), deltas[layer]) < DELTA for layer in linears)
    assert texts[-1].startswith(f"placed {len(linears)} of {len(linears)} layers: LoRA, rank 4, alpha ")


@pytest.mark.peer
@pytest.mark.parametrize("dialect", OF_DIFFUSERS.values(), ids=OF_DIFFUSERS.keys())
def test_diffusers_names(apply, texts, diffusers_model, dialect):
    """diffusers converts our patched matrices into its own: its linears must have the differences of the file."""
    linears = loras.diffusers_linears(diffusers_model)
    file, deltas = loras.lora(dialect, linears)
    model = apply(file)
    converted = as_diffusers({f"{layer}.weight": delta(model, layer) for layer in loras.bfl_linears(WEIGHTS)})
    assert len(linears) == 12 * 2 + 2 * 2 + 9
    assert {name: relative(converted[f"{name}.weight"], one) for name, one in deltas.items()} == pytest.approx(
        dict.fromkeys(deltas, 0.0), abs=DELTA
    )
    assert texts[-1].startswith(f"placed {len(linears)} of {len(linears)} layers")


def as_diffusers(weights):
    """BFL-named tensors by diffusers' names, scale and shift of the last norm in its order."""
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    return convert_flux2_transformer_checkpoint_to_diffusers(dict(weights))


@pytest.mark.peer
def test_what_the_hosts_own_loader_leaves_out(diffusers_model):
    """Why this node is there: five of diffusers' linears."""
    import comfy.lora

    known = comfy.lora.model_lora_keys_unet(klein_model().model, {})
    assert sorted(name for name in loras.diffusers_linears(diffusers_model) if f"transformer.{name}" not in known) == [
        "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.linear",
        "single_stream_modulation.linear",
        "time_guidance_embed.timestep_embedder.linear_1",
        "time_guidance_embed.timestep_embedder.linear_2",
    ]


@pytest.mark.peer
@pytest.mark.parametrize("dialect", ["ai-toolkit", "bfl with alpha", "kohya"])
def test_diffusers_own_conversion(apply, diffusers_model, dialect):
    """Its files from BFL's names, merged by its rule. It forgets to swap the last norm's halves, so not that layer."""
    from diffusers.loaders import lora_conversion_utils as theirs

    known = {name: size for name, size in loras.bfl_linears(WEIGHTS).items() if dialect != "kohya" or "lin" not in name}
    dialect, convert = OF_BFL[dialect], theirs._convert_non_diffusers_flux2_lora_to_diffusers
    if dialect is OF_BFL["kohya"]:
        known |= {name: size for name, size in loras.bfl_linears(WEIGHTS).items() if "single_blocks" in name}
        convert = theirs._convert_kohya_flux2_lora_to_diffusers
    known = {name: size for name, size in known.items() if name != ADA_LN}
    file, _ = loras.lora(dialect, known)
    model = apply(file)
    got = as_diffusers({f"{layer}.weight": delta(model, layer) for layer in known})
    merged = pairs_of(convert({key: one.clone() for key, one in without_alpha(file, dialect).items()}))
    assert merged.keys() == {name.removesuffix(".weight") for name in got}
    assert max(relative(got[f"{name}.weight"], one) for name, one in merged.items()) < DELTA


def without_alpha(file, dialect):
    """Its converter of dotted names takes no alpha: merged beforehand, as its loader does."""
    if dialect is not OF_BFL["bfl with alpha"]:
        return file
    factor = {key.removesuffix(".alpha"): one / loras.RANK for key, one in file.items() if key.endswith(".alpha")}
    return {
        key: one * factor[key.removesuffix(".lora_up.weight")] if "lora_up" in key else one
        for key, one in file.items()
        if not key.endswith(".alpha")
    }


def pairs_of(converted):
    """up @ down of each of diffusers' linears."""
    ups = {key: one for key, one in converted.items() if key.endswith(".lora_B.weight")}
    return {
        key.removeprefix("transformer.").removesuffix(".lora_B.weight"): up.double()
        @ converted[key.replace("lora_B", "lora_A")].double()
        for key, up in ups.items()
    }


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"transformer.lora_alpha": 8}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 4.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_out.0": 1}}, 0.25),
        ({"lora_alpha": 2}, 0.5),
        ({"transformer.lora_alpha": "many"}, 1.0),
    ],
)
def test_the_alpha_in_pefts_metadata(apply, config, factor):
    """diffusers reads LoraConfig from there: alpha / r, or alpha / sqrt(r)."""
    file, deltas = loras.lora(OF_DIFFUSERS["diffusers"], {"transformer_blocks.0.attn.to_out.0": (256, 256)})
    model = apply(file, metadata={"lora_adapter_metadata": json.dumps(config)})
    (wanted,) = deltas.values()
    assert relative(delta(model, "double_blocks.0.img_attn.proj"), factor * wanted) < DELTA


class TestKronecker:
    """LoKr and LoHa on whole matrices, and on rows of one, where nothing need be split."""

    @pytest.mark.parametrize("rank", [None, 3])
    @pytest.mark.parametrize("layer", ["double_blocks.1.img_attn.qkv", "single_blocks.0.linear1", "txt_in"])
    def test_lokr_on_whole_matrices(self, apply, layer, rank):
        parts, wanted = loras.lokr(*WEIGHTS[f"{layer}.weight"].shape, rank=rank)
        model = apply({f"diffusion_model.{layer}.{part}": one for part, one in parts.items()})
        assert relative(delta(model, layer), wanted) < DELTA

    def test_lokr_on_queries_alone(self, apply):
        parts, wanted = loras.lokr(256, 256)
        model = apply({f"lycoris_transformer_blocks_0_attn_to_k.{part}": one for part, one in parts.items()})
        got = delta(model, "double_blocks.0.img_attn.qkv")
        assert relative(got[256:512], wanted) < DELTA and not got[:256].any() and not got[512:].any()

    @pytest.mark.parametrize("layer", ["double_blocks.0.txt_mlp.0", "single_stream_modulation.lin"])
    def test_loha(self, apply, layer, texts):
        parts, wanted = loras.loha(*WEIGHTS[f"{layer}.weight"].shape)
        model = apply({f"lora_unet_{loras.flat(layer)}.{part}": one for part, one in parts.items()})
        assert relative(delta(model, layer), wanted) < DELTA
        assert texts[-1] == "placed 1 of 1 layers: LoHa, rank 4, alpha 3"

    @pytest.mark.parametrize("outer", [(4, 2), (1, 2)])
    def test_lokr_on_the_last_norm_in_diffusers_order(self, apply, outer):
        parts, wanted = loras.lokr(512, 256, outer=outer)
        model = apply({f"transformer.norm_out.linear.{part}": one for part, one in parts.items()})
        assert relative(delta(model, ADA_LN), torch.cat((wanted[256:], wanted[:256]))) < DELTA

    def test_loha_on_the_last_norm_in_diffusers_order(self, apply):
        parts, wanted = loras.loha(512, 256)
        model = apply({f"transformer.norm_out.linear.{part}": one for part, one in parts.items()})
        assert relative(delta(model, ADA_LN), torch.cat((wanted[256:], wanted[:256]))) < DELTA

    def test_full_weights(self, apply):
        wanted = normal(256, 256, seed=1)
        model = apply({"diffusion_model.double_blocks.0.img_attn.proj.diff": wanted})
        assert relative(delta(model, "double_blocks.0.img_attn.proj"), wanted) < DELTA


class TestDora:
    """Magnitudes beside the LoRA, which change the whole weight."""

    @pytest.mark.peer
    @pytest.mark.parametrize("dialect", ["peft", "ai-toolkit"])
    @pytest.mark.parametrize("layer", ["double_blocks.0.img_attn.proj", "single_blocks.1.linear2", "txt_in"])
    def test_as_peft_merges_it(self, apply, texts, dialect, layer):
        weight = WEIGHTS[f"{layer}.weight"]
        file, merged = peft_dora(weight)
        named = OF_BFL[dialect].named(layer)
        model = apply({f"{named}.{part}": tensor for part, tensor in file.items()})
        assert relative(patched(model, layer), merged) < DELTA
        assert texts[-1] == "placed 1 of 1 layers: LoRA as DoRA, rank 4, alpha 4"

    def test_of_queries_alone(self, apply):
        key, weight = "double_blocks.0.img_attn.qkv", WEIGHTS["double_blocks.0.img_attn.qkv.weight"]
        file, merged = dora(weight[:256], axis=1)
        model = apply({f"transformer.transformer_blocks.0.attn.to_q.{part}": one for part, one in file.items()})
        got = patched(model, key)
        assert relative(got[:256], merged) < DELTA and torch.equal(got[256:], weight[256:])

    def test_on_the_last_norm_in_diffusers_order(self, apply):
        shift, scale = WEIGHTS[f"{ADA_LN}.weight"].chunk(2)
        file, merged = dora(torch.cat((scale, shift)), axis=1)
        model = apply({f"transformer.norm_out.linear.{part}": one for part, one in file.items()})
        assert relative(patched(model, ADA_LN), torch.cat((merged[256:], merged[:256]))) < DELTA

    @pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
    @pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
    def test_strength_goes_from_the_weight_to_the_trained_one(self, apply, axis, strength):
        layer = "double_blocks.1.txt_mlp.2"
        weight = WEIGHTS[f"{layer}.weight"]
        file, merged = dora(weight, axis=axis)
        model = apply({f"lycoris_{loras.flat(layer)}.{part}": one for part, one in file.items()}, strength=strength)
        assert relative(patched(model, layer), weight + strength * (merged - weight)) < DELTA

    def test_a_lokr(self, apply, texts):
        layer = "double_blocks.1.img_attn.qkv"
        weight = WEIGHTS[f"{layer}.weight"]
        parts, difference = loras.lokr(*weight.shape)
        magnitude = normal(weight.shape[0], 1, seed=9).abs() + 1
        whole = weight.double() + difference
        model = apply({f"diffusion_model.{layer}.{p}": one for p, one in {**parts, "dora_scale": magnitude}.items()})
        assert relative(patched(model, layer), magnitude * whole / whole.norm(dim=1, keepdim=True)) < DELTA
        assert texts[-1].startswith("placed 1 of 1 layers: LoKr as DoRA")

    def test_the_hosts_own_norm_would_be_seen(self, apply):
        import comfy.lora

        layer = "double_blocks.0.img_attn.proj"
        weight = WEIGHTS[f"{layer}.weight"]
        file, merged = dora(weight, axis=1)
        patches = comfy.lora.load_lora({f"x.{part}": one for part, one in file.items()}, {"x": layer})
        theirs = comfy.lora.calculate_weight([(1.0, patches[layer], 1.0, None, None)], weight.clone(), layer)
        assert relative(theirs, merged) > 100 * DELTA

    def test_it_is_known_by_its_contents(self, apply):
        from klein9b.nodes.host.weight_patches import patches_digest

        name, weight = "diffusion_model.txt_in", WEIGHTS["txt_in.weight"]
        file = {f"{name}.{part}": one for part, one in dora(weight, axis=1)[0].items()}
        other = {**file, f"{name}.dora_scale": file[f"{name}.dora_scale"] * 1.01}
        first, again, changed = (patches_digest(apply(one)) for one in (file, file, other))
        assert first == again != changed


def peft_dora(weight):
    """A DoRA's tensors as PEFT names them, and the weight that PEFT makes with it."""
    peft = pytest.importorskip("peft")
    rows, columns = weight.shape
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data.copy_(weight)
    config = peft.LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=["0"])
    wrapped = peft.get_peft_model(torch.nn.Sequential(linear), config)
    layer = wrapped.base_model.model[0]
    layer.lora_A["default"].weight.data.copy_(normal(4, columns, seed=6))
    layer.lora_B["default"].weight.data.copy_(normal(rows, 4, seed=7))
    layer.lora_magnitude_vector["default"].weight.data.mul_(normal(rows, seed=8).abs() + 0.5)
    state = peft.get_peft_model_state_dict(wrapped)
    file = {key.removeprefix("base_model.model.0."): one.clone() for key, one in state.items()}
    return file, wrapped.merge_and_unload()[0].weight.detach().clone()


def dora(weight, *, axis):
    """A DoRA's tensors as LyCORIS names them, and the weight that equation 5 makes with it in float64.

    Args:
        axis: along which norms are taken: 1 for magnitudes of rows, 0 for those of columns.
    """
    down, up = normal(4, weight.shape[1], seed=6), normal(weight.shape[0], 4, seed=7)
    magnitude = normal(*(weight.shape[0], 1) if axis else (1, weight.shape[1]), seed=8).abs() + 0.5
    merged = weight.double() + up.double() @ down.double()
    file = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": magnitude}
    return file, magnitude * merged / merged.norm(dim=axis, keepdim=True)


def patched(model, layer):
    """A weight as the host makes it with the model's patches."""
    import comfy.lora

    key = f"diffusion_model.{layer}.weight"
    return comfy.lora.calculate_weight(model.patches[key], WEIGHTS[f"{layer}.weight"].clone(), key)


@pytest.mark.peer
def test_a_run_equals_diffusers_with_the_lora_merged(apply, diffusers_model):
    """Every one of diffusers' linears is trained, the last norm's among them; both compute the same velocity."""
    from standins.peers import diffusers_transformer

    file, deltas = loras.lora(OF_DIFFUSERS["diffusers"], loras.diffusers_linears(diffusers_model))
    merged = diffusers_transformer(WEIGHTS)
    plain = velocity(merged)
    weights = merged.state_dict()
    for name, one in deltas.items():
        weights[f"{name}.weight"] += one.float()
    assert relative(ours(klein_model()), plain) < 1e-5 < 0.01 < relative(velocity(merged), plain)
    assert relative(ours(apply(file)), velocity(merged)) < 1e-5


def ours(model):
    """The host's velocity at one noise level."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    with torch.inference_mode():
        return model.model.diffusion_model(LATENT, torch.tensor([SIGMA]), prompt())


def velocity(transformer):
    grid = torch.cartesian_prod(torch.tensor([0]), torch.arange(4), torch.arange(7), torch.tensor([0]))
    words = torch.cartesian_prod(*(torch.tensor([0]),) * 3, torch.arange(512))
    with torch.inference_mode():
        tokens = transformer(
            hidden_states=LATENT.flatten(2).transpose(1, 2),
            img_ids=grid[None],
            encoder_hidden_states=prompt(),
            txt_ids=words[None],
            timestep=torch.tensor([SIGMA]),
            return_dict=False,
        )[0]
    return tokens.transpose(1, 2).unflatten(2, (4, 7))


@pytest.fixture(scope="module")
def file():
    return loras.lora(OF_BFL["kohya"], loras.bfl_linears(WEIGHTS))[0]


class TestRuns:
    """In the host's sampler."""

    def test_the_model_before_it_stays(self, apply, file):
        model = klein_model()
        before = edit(model)
        assert relative(edit(apply(file, model)), before) > 0.01
        assert torch.equal(edit(model), before)

    def test_strength_0_is_the_model_itself(self, apply, file, texts):
        model = klein_model()
        assert apply(file, model, strength=0) is model
        assert texts == ["strength 0: the model stays as it is"]

    @pytest.mark.parametrize("strengths", [(0.25, 0.75), (2.0, -1.0)])
    def test_several_in_a_row_add_up(self, apply, file, strengths):
        twice = apply(file, apply(file, strength=strengths[0]), strength=strengths[1])
        assert relative(edit(twice), edit(apply(file))) < 1e-5

    def test_beside_the_hosts_own_loader(self, apply, file):
        """In the dialect that the host knows, for the layers that it knows."""
        import comfy.sd

        theirs, _ = comfy.sd.load_lora_for_models(klein_model(), None, file, 0.7, 0)
        assert relative(edit(apply(file, strength=0.7)), edit(theirs)) < 1e-6

    @pytest.mark.parametrize("quantised_as", ["int8_tensorwise", "float8_e4m3fn"])
    def test_on_quantised_weights(self, apply, quantised_as):
        """Rows of fused matrices too: diffusers' names for queries and BFL's for all three land on the same weights."""
        down, up = normal(4, 256, seed=1) / 16, normal(768, 4, seed=2) / 2
        pair = {"lora_A.weight": down, "lora_B.weight": up}
        whole = {f"diffusion_model.double_blocks.0.img_attn.qkv.{part}": one for part, one in pair.items()}
        parts = {
            f"transformer.transformer_blocks.0.attn.to_{name}.{part}": up.chunk(3)[i] if "B" in part else down
            for i, name in enumerate("qkv")
            for part in pair
        }
        with torch.inference_mode():
            whole, parts = ({key: one.clone() for key, one in file.items()} for file in (whole, parts))
        plain = edit(klein_model(quantised_as=quantised_as))
        behind = [edit(apply(file, klein_model(quantised_as=quantised_as))) for file in (whole, parts)]
        assert relative(*behind) < 0.1 * relative(behind[0], plain)

    @pytest.mark.parametrize("first", [True, False], ids=["before Accelerate", "behind Accelerate"])
    def test_beside_accelerate(self, apply, file, first):
        model = klein_model()
        both = Accelerated(apply(file, model)).model if first else apply(file, Accelerated(model).model)
        assert relative(edit(both), edit(apply(file, model))) < 1e-5

    @pytest.mark.parametrize("behind", [True, False], ids=["behind the cache", "before the cache"])
    def test_beside_the_reference_cache(self, apply, file, behind):
        """Kept keys are those of the model with its LoRA: another strength computes them anew."""
        references = [reference(1)]
        model = klein_model(seed=12 + behind)
        runs = {}
        for strength in (1.0, 0.5):
            if behind:
                changed = apply(file, cached(model)[0], strength=strength)
            else:
                changed = cached(apply(file, model, strength=strength))[0]
            runs[strength] = edit(changed, references)
            assert torch.equal(edit(changed, references), runs[strength])
        assert relative(runs[0.5], runs[1.0]) > 1e-3


class TestNamed:
    """What has no place is named with its reason; where nothing has one, the file is refused."""

    def some(self, *modules, dialect="ai-toolkit", of=OF_BFL):
        linears = loras.bfl_linears(WEIGHTS)
        return loras.lora(of[dialect], {name: linears.get(name, (256, 256)) for name in modules})[0]

    def test_keys_without_a_place(self, apply, texts, caplog):
        file = self.some("img_in", "double_blocks.0.img_mod.lin", "double_blocks.7.img_attn.proj")
        file |= {"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0)}
        file |= {"diffusion_model.img_in.lora_B.bias": torch.zeros(256)}
        apply(file)
        first, *rest = texts[-1].split("\n")
        assert first == "placed 1 of 5 layers: LoRA, rank 4, alpha 4"
        assert sorted(rest) == [
            "not placed, Klein has no such layer: "
            "diffusion_model.double_blocks.0.img_mod.lin.lora_A.weight, "
            "diffusion_model.double_blocks.0.img_mod.lin.lora_B.weight, "
            "diffusion_model.double_blocks.7.img_attn.proj.lora_A.weight, "
            "diffusion_model.double_blocks.7.img_attn.proj.lora_B.weight",
            "not placed, it is for a text encoder, which is left as it is: "
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
            "not placed, it is no part of a LoRA, LoHa or LoKr on a linear layer: diffusion_model.img_in.lora_B.bias",
        ]
        assert all(line in caplog.text for line in rest)

    def test_half_a_pair(self, apply, texts):
        file = self.some("img_in", "txt_in")
        del file["diffusion_model.txt_in.lora_B.weight"]
        apply(file)
        assert "not placed, its up half is missing: diffusion_model.txt_in.lora_A.weight" in texts[-1]
        with pytest.raises(ValueError, match=r"^one.safetensors .*txt_in.lora_A.weight: its up half is missing"):
            apply({key: one for key, one in file.items() if "txt_in" in key})

    def test_one_for_4b_in_one_sentence(self, apply):
        linears = {"double_blocks.0.img_attn.qkv": (9216, 3072), "single_blocks.0.linear2": (3072, 12288)}
        file, _ = loras.lora(OF_BFL["ai-toolkit"], linears, rank=1)
        with pytest.raises(ValueError, match=r"^one.safetensors is made for FLUX.2 \[klein\] 4B, but the model is "):
            apply(file)

    def test_a_pickle_in_one_sentence(self, folder, apply):
        from klein9b.nodes.lora import Klein9BLora

        torch.save({"a": torch.zeros(1)}, folder / "old.pt")
        with pytest.raises(ValueError, match=r"^old.pt is a PyTorch pickle .*: choose a LoRA in .safetensors"):
            Klein9BLora.execute(klein_model(), "old.pt", 1.0)

    def test_another_familys_in_an_older_spelling(self, apply):
        pair = {"lora.up.weight": torch.zeros(8, 2), "lora.down.weight": torch.zeros(2, 8)}
        with pytest.raises(ValueError, match="^one.safetensors is made for Stable Diffusion, but the model is "):
            apply({f"unet.down_blocks.0.attentions.0.to_q.{part}": one for part, one in pair.items()})

    def test_a_model_file_in_one_sentence(self, apply):
        with pytest.raises(ValueError, match=r"^one.safetensors is FLUX.2 \[klein\] 9B, not a LoRA"):
            apply(WEIGHTS)

    def test_another_model(self, apply):
        model = klein_model()
        model.add_object_patch("diffusion_model", torch.nn.Linear(1, 1))
        with pytest.raises(ValueError, match=r"^The model is a Linear, but this node needs FLUX.2"):
            apply(self.some("img_in"), model)
        import comfy.sd

        narrow = {**WEIGHTS, "txt_in.weight": torch.zeros(256, 7680)}
        model = comfy.sd.load_diffusion_model_state_dict(narrow, model_options={"dtype": torch.float32})
        with pytest.raises(ValueError, match=r"^The model is a FLUX.2 model of width 256, but this node needs FLUX.2"):
            apply(self.some("img_in"), model)
