"""The CLIP of Klein 9B Loader in the real host: opened by nothing but use, and to every node what stock's would be."""

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from standins.text_encoder import text_encoder

LAYERS = 36
TEXT = "a red fox in the snow"
CONFIG = "qwen3_8b_model_config"


@pytest.fixture(scope="module")
def encoder(models):
    """A file at full depth with a head, as Qwen3-8B's own."""
    path = models / "text_encoders" / "qwen_3_8b.safetensors"
    save_file({k: v.to(torch.bfloat16) for k, v in text_encoder(layers=LAYERS, head=True).items()}, path)
    return path


def stock_clip(path, **config):
    import comfy.sd

    options = {CONFIG: {"num_hidden_layers": LAYERS, **config}}
    kind = comfy.sd.CLIPType.FLUX2
    return unpadded(comfy.sd.load_clip([str(path)], embedding_directory=[], clip_type=kind, model_options=options))


@pytest.fixture(scope="module")
def stock(encoder):
    return stock_clip(encoder)


@pytest.fixture
def opened(monkeypatch, shrunk):
    """The model options of every opening of an encoder's file; what asks for the file's depth gets 36 layers."""
    import comfy.sd

    load, openings = comfy.sd.load_clip, []

    def counted(ckpt_paths, embedding_directory, clip_type, model_options, disable_dynamic=False):
        openings.append(model_options)
        depth = {CONFIG: {"num_hidden_layers": LAYERS}} | model_options
        return load(ckpt_paths, embedding_directory, clip_type, depth, disable_dynamic)

    monkeypatch.setattr(comfy.sd, "load_clip", counted)
    return openings


@pytest.fixture
def clip(opened, encoder):
    return lazy(encoder)


def lazy(path):
    from klein9b.nodes.host.lazy_clip import lazy_clip

    return unpadded(lazy_clip(str(path), [], None))


def unpadded(clip):
    """Without the padding to 512 tokens, which takes a processor's time and changes nothing here."""
    clip.set_tokenizer_option("qwen3_8b_min_length", 1)
    return clip


def loaded(name):
    from klein9b.nodes.loader import Klein9BLoader

    files = {"diffusion_model": "flux-2-klein-9b.safetensors", "text_encoder": name, "vae": "flux2-vae.safetensors"}
    return Klein9BLoader.execute(**files, variant="auto").args[1]


def encode(clip, text=TEXT):
    import nodes

    (conditioning,) = nodes.CLIPTextEncode().encode(clip, text)
    return conditioning


def same_mask(one, other):
    masks = [beside.get("attention_mask") for beside in (one, other)]
    return masks == [None, None] or torch.equal(*masks)


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and a[1].keys() == b[1].keys() and same_mask(a[1], b[1]) for a, b in zip(one, other)
    )


class TestLayers:
    def test_27_layers_are_all_36_to_the_last_bit(self, clip, stock, opened):
        assert same(encode(clip), encode(stock))
        decoder = clip.cond_stage_model.qwen3_8b.transformer.model
        assert (len(decoder.layers), decoder.norm, hasattr(decoder, "lm_head")) == (27, None, False)
        assert len(opened) == 1

    def test_with_the_final_norm_it_would_differ(self, encoder, stock):
        normed = stock_clip(encoder, num_hidden_layers=27)
        ours, theirs = encode(normed)[0][0], encode(stock)[0][0]
        assert torch.equal(ours[..., :8192], theirs[..., :8192])
        assert (ours - theirs).norm() / theirs.norm() > 0.1

    def test_what_the_nine_layers_hold_is_never_read(self, models, opened, stock, encoder):
        """Not loaded, and as the file is mapped, not read either."""
        weights = load_file(encoder)
        for name in weights:
            if name.startswith("model.layers.") and int(name.split(".")[2]) >= 27:
                weights[name] = torch.full_like(weights[name], torch.nan)
        save_file(weights, models / "text_encoders" / "nan.safetensors")
        clip = lazy(models / "text_encoders" / "nan.safetensors")
        assert same(encode(clip), encode(stock))
        assert not any("layers.27." in name for name in clip.cond_stage_model.state_dict())


class TestUnopened:
    def test_looking_at_it_opens_nothing(self, clip, opened):
        import comfy.sd
        from comfy.model_patcher import ModelPatcher

        assert isinstance(clip, comfy.sd.CLIP) and not clip.is_open
        twin = clip.clone()
        twin.clip_layer(-2)
        twin.set_tokenizer_option("qwen3_8b_min_length", 600)
        assert len(clip.tokenize("a")["qwen3_8b"][0]) < 100 < len(twin.tokenize("a")["qwen3_8b"][0])
        assert clip.decode([64]) == "a"
        assert not isinstance(getattr(clip, "patcher", None), ModelPatcher)
        assert clip.is_dynamic() is False
        assert (clip.layer_idx, twin.layer_idx) == (None, -2)
        assert opened == []

    def test_the_hosts_own_bookkeeping_opens_nothing(self, clip, opened):
        """After every node, and when RAM is short."""
        import comfy.model_patcher
        import comfy_execution.caching

        assert not comfy_execution.caching.all_outputs_dynamic([clip])
        if hasattr(comfy.model_patcher, "PromptModelTracker"):
            comfy.model_patcher.PromptModelTracker().add([clip])
            assert not comfy.model_patcher.is_model_patcher_output(clip)
        assert opened == []

    def test_clones_open_the_file_once_and_share_no_patches(self, clip, opened):
        twin = clip.clone()
        name = "qwen3_8b.transformer.model.layers.3.mlp.up_proj.weight"
        weight = twin.cond_stage_model.state_dict()[name]
        assert twin.add_patches({name: (torch.ones_like(weight),)}) == [name]
        assert twin.clone().patcher.patches and not clip.patcher.patches and not clip.clone().patcher.patches
        assert len(opened) == 1 and clip.cond_stage_model is twin.cond_stage_model
        assert not same(encode(twin), encode(clip))

    @pytest.mark.parametrize("open_first", [False, True])
    def test_a_deep_copy_shares_nothing(self, clip, stock, opened, open_first):
        import copy

        if open_first:
            clip.patcher.load_device  # noqa: B018
        deep = copy.deepcopy(clip)
        assert deep.is_open == open_first and len(opened) == open_first and deep.tokenizer_options
        assert same(encode(deep), encode(stock)) and same(encode(clip), encode(stock))
        name = "qwen3_8b.transformer.model.layers.3.mlp.up_proj.weight"
        deep.cond_stage_model.state_dict()[name].zero_()
        assert not same(encode(deep), encode(stock)) and same(encode(clip), encode(stock))

    def test_the_stand_in_for_its_patcher_is_the_patcher(self, clip, opened):
        import comfy.model_management

        early = clip.patcher
        early.forced_hooks = None
        assert len(opened) == 1 and clip.is_open
        assert early.model is clip.patcher.model and early.load_device == clip.patcher.load_device
        fresh = clip.clone()
        fresh.patcher = lazy(clip.file.path).patcher
        assert fresh.patcher.model is not clip.patcher.model
        comfy.model_management.load_models_gpu([lazy(clip.file.path).patcher])

    def test_a_file_that_went_away_is_one_sentence(self, models, opened, encoder):
        path = models / "text_encoders" / "away.safetensors"
        path.write_bytes(encoder.read_bytes())
        clip = loaded(path.name)
        path.write_bytes(encoder.read_bytes()[:100_000])
        with pytest.raises(ValueError, match=r"^away.safetensors is cut short \(.*\)\.$"):
            encode(clip)
        path.unlink()
        with pytest.raises(ValueError, match=r"^away.safetensors is not there\.$"):
            encode(clip)
        path.write_bytes(encoder.read_bytes())
        assert len(encode(clip)) == 1

    def test_a_bad_file_is_still_refused_by_the_loader(self, models, opened, encoder):
        (models / "text_encoders" / "cut.safetensors").write_bytes(encoder.read_bytes()[:100_000])
        with pytest.raises(ValueError, match=r"^cut.safetensors is cut short"):
            loaded("cut.safetensors")


@pytest.fixture
def lora(models, encoder):
    """On a layer that Klein reads."""
    import folder_paths

    draw = torch.Generator().manual_seed(5)
    layer = "text_encoders.qwen3_8b.transformer.model.layers.2.mlp.up_proj"
    weights = {
        f"{layer}.lora_up.weight": torch.randn(32, 4, generator=draw),
        f"{layer}.lora_down.weight": torch.randn(4, 4096, generator=draw) / 64,
    }
    (models / "loras").mkdir(exist_ok=True)
    save_file(weights, models / "loras" / "encoder.safetensors")
    before = folder_paths.folder_names_and_paths["loras"]
    folder_paths.folder_names_and_paths["loras"] = ([str(models / "loras")], {".safetensors"})
    yield "encoder.safetensors"
    folder_paths.folder_names_and_paths["loras"] = before


def with_lora(clip, name, strength=0.7):
    import nodes

    return nodes.LoraLoader().load_lora(None, clip, name, 0.0, strength)[1]


class TestOtherNodes:
    """What any node makes of it is what it makes of stock's CLIP."""

    def test_lora_loader(self, clip, stock, lora):
        changed = encode(with_lora(clip, lora))
        assert same(changed, encode(with_lora(stock, lora))) and not same(changed, encode(stock))
        assert same(encode(clip), encode(stock))

    def test_set_last_layer(self, clip, stock, opened):
        import nodes

        ours, theirs = (nodes.CLIPSetLastLayer().set_last_layer(one, -2)[0] for one in (clip, stock))
        assert opened == [] and same(encode(ours), encode(theirs))

    @pytest.mark.parametrize("scheduled", [False, True])
    def test_hooks(self, clip, stock, lora, scheduled):
        import comfy_extras.nodes_hooks as hooks

        def hooked(one):
            group = hooks.CreateHookLora().create_hook(lora, 1.0, 0.7)[0]
            (keyframes,) = hooks.CreateHookKeyframe().create_hook_keyframe(0.5, 0.5)
            (group,) = hooks.SetHookKeyframes().set_hook_keyframes(group, keyframes)
            return hooks.SetClipHooks().apply_hooks(one, scheduled, True, group)[0]

        ours, theirs = encode(hooked(clip)), encode(hooked(stock))
        assert same(ours, theirs) and len(ours) == 1 + scheduled
        assert not same(ours[:1], encode(stock)) and "hooks" in ours[0][1]

    def test_merging(self, clip, stock, lora):
        import comfy_extras.nodes_model_merging as merging

        def merged(one):
            return merging.CLIPMergeSimple().merge(one, with_lora(one, lora, 2.0), 0.5)[0]

        assert same(encode(merged(clip)), encode(merged(stock)))

    def test_attention_multiply(self, clip, stock):
        from comfy_extras.nodes_attention_multiply import CLIPAttentionMultiply

        ours, theirs = (CLIPAttentionMultiply.execute(one, 1.2, 1.0, 0.8, 1.0).args[0] for one in (clip, stock))
        assert same(encode(ours), encode(theirs)) and not same(encode(ours), encode(stock))

    def test_saving_saves_all_36_layers(self, clip, stock, lora):
        ours, theirs = (with_lora(one, lora).state_dict_for_saving() for one in (clip, stock))
        assert ours.keys() == theirs.keys() and any("layers.35." in name for name in ours)
        patched = "qwen3_8b.transformer.model.layers.2.mlp.up_proj.weight"
        assert torch.equal(ours[patched].to(device="cpu"), theirs[patched].to(device="cpu"))
        assert clip.get_sd().keys() == stock.get_sd().keys()

    def test_text_is_written_by_all_36_layers(self, clip, stock, opened):
        def written(one):
            return one.generate(one.tokenize("a fox", min_length=1), do_sample=False, max_length=4, seed=1)

        assert written(clip) == written(stock) and len(written(clip)) == 4
        assert opened == [{}]
        assert same(encode(clip), encode(stock)) and opened == [{}]

    def test_select_clip_device(self, clip, stock):
        from comfy_extras.nodes_multigpu import SelectCLIPDeviceNode

        (moved,) = SelectCLIPDeviceNode.execute(clip, "cpu").args
        assert same(encode(moved), encode(stock))

    def test_a_copy_for_another_card_is_loaded_anew(self, clip, stock):
        deep = clip.patcher.deepclone_multigpu(torch.device("cpu"))
        assert deep.model is not clip.patcher.model
        assert len(deep.model.qwen3_8b.transformer.model.layers) == 27


def test_the_host_frees_it_as_any_other(encoder, opened):
    import comfy.model_management as management

    clip = lazy(encoder)
    before = encode(clip)
    assert any(one.model is clip.patcher for one in management.current_loaded_models)
    management.unload_all_models()
    assert not management.current_loaded_models
    assert same(encode(clip), before) and len(opened) == 1
    model = weakref.ref(clip.cond_stage_model)
    del clip
    gc.collect()
    management.cleanup_models_gc()
    gc.collect()
    assert model() is None
