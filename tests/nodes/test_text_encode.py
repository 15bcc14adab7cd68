"""Klein 9B Text Encode in the real host: what it returns is stock's, what it keeps comes back, what it warns of."""

import errno
import logging
import os
import weakref

import pytest
import torch
from safetensors.torch import save_file

import standins
from standins.text_encoder import text_encoder

TEXT = "a red fox in the snow"
DISTILLED, BASE, KV = (f"flux-2-klein-{name}.safetensors" for name in ("9b", "base-9b", "9b-kv-fp8"))
LOG = "klein9b.nodes.text_encode"


@pytest.fixture(scope="module")
def encoder(models):
    return models / "text_encoders" / standins.TEXT_ENCODER


@pytest.fixture
def opened(monkeypatch, remembered, tokenizer):
    """How often an encoder's file was opened."""
    import comfy.sd
    import comfy.text_encoders.flux

    openings = []
    monkeypatch.setattr(comfy.sd, "load_clip", lambda *a, **k: openings.append(a) or remembered(*a, **k))
    monkeypatch.setattr(comfy.text_encoders.flux, "KleinTokenizer8B", tokenizer)
    return openings


@pytest.fixture(scope="module")
def remembered(shrunk):
    """The host's load_clip, which reads a file once for the whole module: nothing here writes into its weights."""
    import comfy.sd

    load, kept = comfy.sd.load_clip, {}

    def once(paths, **options):
        key = repr((os.stat(paths[0]), options["model_options"]))
        if key not in kept:
            kept[key] = load(paths, **options)
        return kept[key]

    return once


@pytest.fixture(scope="module")
def tokenizer(comfy_host):
    import functools

    import comfy.text_encoders.flux

    make = functools.cache(lambda: comfy.text_encoders.flux.KleinTokenizer8B(embedding_directory=[]))
    make()
    return lambda **_: make()


@pytest.fixture
def clip(encoder, opened, prompts_folder):
    return lazy(encoder)


def lazy(encoder, model=DISTILLED, chosen="auto"):
    """As Klein 9B Loader hands it on, without the model and the VAE."""
    from klein9b.klein.file_set import check_set
    from klein9b.klein.variant import decide_variant
    from klein9b.nodes.host.lazy_clip import lazy_clip
    from klein9b.nodes.host.loaded_klein import LoadedKlein

    models = encoder.parents[1]
    files = check_set(models / "diffusion_models" / model, encoder, models / "vae" / "flux2-vae.safetensors")
    loaded = LoadedKlein(files, decide_variant(files.diffusion_model.variant, chosen))
    return unpadded(lazy_clip(str(encoder), [], loaded))


def unpadded(clip):
    """Without the padding to 512 tokens, which takes a processor's time and changes nothing here."""
    clip.set_tokenizer_option("qwen3_8b_min_length", 1)
    return clip


def stock_clip(path):
    import comfy.sd

    return unpadded(comfy.sd.load_clip([str(path)], embedding_directory=[], clip_type=comfy.sd.CLIPType.FLUX2))


@pytest.fixture(scope="module")
def stock(encoder):
    return stock_clip(encoder)


def stock_encode(clip, text):
    import nodes

    return nodes.CLIPTextEncode().encode(clip, text)[0]


def encode(clip, *args, **options):
    from klein9b.nodes.text_encode import Klein9BTextEncode

    return Klein9BTextEncode.execute(clip, *args, **options).args


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1]["attention_mask"], b[1]["attention_mask"])
        for a, b in zip(one, other)
    )


def key_of(clip):
    from klein9b.nodes.host.kept_prompts import prompt_key
    from klein9b.nodes.host.klein_encoder import Precision

    return prompt_key(clip, TEXT, Precision.FP32)


def restart():
    """As far as kept prompts are concerned."""
    from klein9b.nodes.host import kept_prompts

    kept_prompts._store_of.cache_clear()


@pytest.fixture
def shown(monkeypatch):
    """The last text under each node."""
    from klein9b.nodes import references, text_encode

    texts = {}
    for module in (text_encode, references):
        monkeypatch.setattr(module, "show_text", lambda node, text: texts.update({node.__name__: text}))
    return texts


class TestEncoding:
    def test_it_is_what_clip_text_encode_makes(self, clip, stock):
        positive, _ = encode(clip, TEXT)
        theirs = stock_encode(stock, TEXT)
        assert same(positive, theirs)
        assert positive[0][1].keys() - theirs[0][1].keys() == {"klein9b_prompt"}

    def test_another_loaders_clip_runs_27_layers_and_keeps_all(self, stock, prompts_folder, monkeypatch):
        decoder = stock.cond_stage_model.qwen3_8b.transformer.model
        layers, norm = decoder.layers, decoder.norm
        ran = []
        for i, layer in enumerate(layers):
            monkeypatch.setattr(layer, "forward", lambda *a, i=i, run=layer.forward, **k: ran.append(i) or run(*a, **k))
        theirs = stock_encode(stock, TEXT)
        assert ran == list(range(28))
        ran.clear()
        positive, _ = encode(stock, TEXT, "blurry")
        assert same(positive, theirs) and ran == 2 * list(range(27))
        assert decoder.layers is layers and decoder.norm is norm

    def test_the_layers_come_back_after_an_error(self, stock, prompts_folder, monkeypatch):
        import comfy.model_management

        decoder = stock.cond_stage_model.qwen3_8b.transformer.model
        layers, norm, hooks = decoder.layers, decoder.norm, len(decoder._forward_pre_hooks)

        def interrupted(*_args, **_options):
            assert len(decoder.layers) == 27
            raise comfy.model_management.InterruptProcessingException

        monkeypatch.setattr(layers[5], "forward", interrupted)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            encode(stock, TEXT)
        assert decoder.layers is layers and decoder.norm is norm
        assert len(decoder._forward_pre_hooks) == hooks and not decoder._forward_hooks

    @pytest.mark.parametrize(
        "text", ["", " ", "\U0001f98a\u2744\ufe0f", "\u96ea\u306e\u72d0", "\u0644\u0644", "{}%s\n\0"]
    )
    def test_any_text(self, clip, stock, text):
        assert same(encode(clip, text)[0], stock_encode(stock, text))

    def test_an_embedding_is_the_hosts_and_not_kept(self, stock, prompts_folder, tmp_path, monkeypatch):
        save_file({"qwen3_8b": torch.randn(2, 4096)}, tmp_path / "fox.safetensors")
        monkeypatch.setattr(stock.tokenizer.qwen3_8b, "embedding_directory", [str(tmp_path)])
        text = "a embedding:fox in the snow"
        first = encode(stock, text)[0]
        assert same(first, stock_encode(stock, text)) and not same(first, stock_encode(stock, "a in the snow"))
        save_file({"qwen3_8b": torch.randn(2, 4096)}, tmp_path / "fox.safetensors")
        assert not same(encode(stock, text)[0], first)

    @pytest.mark.parametrize("tokens", [{"qwen3_4b": [[]]}, {"l": [[]], "t5xxl": [[]]}, [[]]])
    def test_another_encoder_is_one_sentence(self, stock, prompts_folder, monkeypatch, tokens):
        monkeypatch.setattr(stock, "tokenize", lambda text: tokens)
        names = {"qwen3_4b": "Qwen3-4B", "l": "CLIP-L and T5-XXL"}
        name = names[next(iter(tokens))] if isinstance(tokens, dict) else "an encoder of another kind"
        with pytest.raises(ValueError, match=f"^This CLIP is {name}, and Klein 9B was trained on Qwen3-8B: connect "):
            encode(stock, "never seen before")

    def test_no_clip_is_one_sentence(self, prompts_folder):
        with pytest.raises(ValueError, match=r"^No text encoder came in: connect the clip of Klein 9B Loader\.$"):
            encode(None, TEXT)


class TestLength:
    @pytest.mark.parametrize("words", [100_000 // 6, 600])
    def test_a_long_prompt_is_cut_at_512_and_says_so(self, clip, stock, shown, caplog, words):
        text = "a fox " * words
        ((cond, _),) = encode(clip, text)[0]
        assert cond.shape == (1, 512, 12288)
        tokens = stock.tokenize(text)
        cut = {"qwen3_8b": [tokens["qwen3_8b"][0][:512]]}
        assert torch.equal(cond, stock.encode_from_tokens(cut))
        total = len(tokens["qwen3_8b"][0])
        sentence = (
            f"The prompt is {total:,} tokens long with its template; Klein reads the first 512, as Black Forest Labs "
            f"runs it, so the last {total - 512:,} were cut. Shorten it."
        )
        assert sentence in shown["Klein9BTextEncode"] and sentence in caplog.text
        restart()
        encode(clip, text)
        assert sentence in shown["Klein9BTextEncode"], "kept with the encoding"

    def test_512_tokens_are_not_cut(self, clip, stock, shown):
        text = "fox " * 499
        assert len(stock.tokenize(text)["qwen3_8b"][0]) == 512
        encode(clip, text)
        assert shown["Klein9BTextEncode"] == "prompt: encoded, 512 tokens"

    @pytest.mark.peer
    @pytest.mark.parametrize("text", ["", TEXT, "a fox " * 400, "\u96ea\u306e\u72d0 \U0001f98a", " (fox:1.2)\n\n x"])
    def test_the_tokens_are_diffusers_own(self, stock, checkout, monkeypatch, text):
        """Its chat template, its truncation, its padding."""
        from host.launch import cope_with_cpu_wheels

        cope_with_cpu_wheels()
        pytest.importorskip("diffusers")
        from diffusers import Flux2KleinPipeline

        from klein9b.nodes.host.klein_encoder import klein_tokens

        seen = {}

        class Stop(Exception):
            pass

        class Encoder(torch.nn.Module):
            dtype, device = torch.float32, torch.device("cpu")

            def forward(self, input_ids, attention_mask, **_):
                seen.update(ids=input_ids[0].tolist(), mask=attention_mask[0].tolist())
                raise Stop

        with pytest.raises(Stop):
            Flux2KleinPipeline._get_qwen3_prompt_embeds(Encoder(), chat_tokenizer(checkout), text)
        monkeypatch.setattr(stock, "tokenizer_options", {})
        ours, _ = klein_tokens(stock, text)
        assert [one for one, _ in ours["qwen3_8b"][0]] == seen["ids"]


def chat_tokenizer(checkout):
    """The host's copy of Qwen's tokenizer with Qwen3's own chat template for one message without thinking."""
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer.from_pretrained(str(checkout / "comfy" / "text_encoders" / "qwen25_tokenizer"))
    tokenizer.pad_token_id, tokenizer.padding_side = 151643, "right"
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}"
    )
    return tokenizer


class TestPrecision:
    @pytest.mark.peer
    def test_bf16_is_transformers_bf16(self, clip, encoder, checkout):
        """As far from float32 as theirs; two orders of rounding are about the square root of two times that apart."""
        from safetensors.torch import load_file

        weights = load_file(encoder)
        exact = qwen3_states(weights, clip.tokenize(TEXT), torch.float32)
        rounded = qwen3_states(weights, clip.tokenize(TEXT), torch.bfloat16)
        ours, stocks = encode(clip, TEXT, precision="bf16")[0][0][0], encode(clip, TEXT)[0][0][0]
        real = encode(clip, TEXT)[0][0][1]["attention_mask"][0].bool()
        far = lambda one, other: ((one - other)[:, real].norm() / other[:, real].norm()).item()  # noqa: E731
        assert far(stocks, exact) < 1e-5
        cost = far(rounded, exact)
        assert cost > 1e-3 and far(ours, exact) < 1.3 * cost and far(ours, rounded) < 1.6 * cost
        assert far(ours, exact) > cost / 3
        assert torch.equal(ours.bfloat16().float(), ours) and not torch.equal(stocks.bfloat16().float(), stocks)

    def test_a_device_without_bfloat16_is_one_sentence(self, clip, monkeypatch):
        import comfy.model_management

        monkeypatch.setattr(comfy.model_management, "supports_cast", lambda _, dtype: dtype is not torch.bfloat16)
        assert encode(clip, "on a processor", precision="bf16")[0][0][0].any()
        clip.patcher.load_device = torch.device("meta")
        sentence = "^The text encoder runs on meta, which has no bfloat16, and precision is bf16: choose fp32.$"
        with pytest.raises(ValueError, match=sentence):
            encode(clip, TEXT, precision="bf16")

    def test_bf16_is_kept_in_half_the_bytes(self, clip, prompts_folder):
        sizes = []
        for precision in ("fp32", "bf16"):
            first = encode(clip, TEXT, precision=precision)[0]
            restart()
            again = encode(clip, TEXT, precision=precision)[0]
            assert same(first, again) and again[0][0].dtype == torch.float32
            sizes.append(sum(path.stat().st_size for path in prompts_folder.iterdir()) - sum(sizes))
        assert 0.4 < sizes[1] / sizes[0] < 0.6


def qwen3_states(weights, tokens, dtype):
    """Of transformers' own Qwen3 after 9, 18 and 27 layers, side by side, in this dtype throughout."""
    from host.launch import cope_with_cpu_wheels
    from standins.text_encoder import SHRUNK, WIDTH

    cope_with_cpu_wheels()
    from transformers import Qwen3Config, Qwen3Model

    rope = {"rope_theta": 1e6, "rope_type": "default"}
    config = Qwen3Config(
        **SHRUNK, hidden_size=WIDTH, head_dim=128, rms_norm_eps=1e-6, max_position_embeddings=40960, rope_theta=1e6,
        rope_parameters=rope, attn_implementation="eager",
    )  # fmt: skip
    model = Qwen3Model(config)
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})
    ids = torch.tensor([[one for one, _ in tokens["qwen3_8b"][0]]])
    mask = (ids != 151643).long()
    with torch.inference_mode():
        out = model.to(dtype)(ids % SHRUNK["vocab_size"], attention_mask=mask, output_hidden_states=True)
        states = out.hidden_states
    return torch.cat([states[layer].float() for layer in (9, 18, 27)], dim=-1)


class TestNegative:
    @pytest.mark.parametrize("model", [DISTILLED, KV])
    @pytest.mark.parametrize("empty", ["", "  \n"])
    def test_a_distilled_models_empty_one_is_the_prompt_zeroed(self, encoder, prompts_folder, model, empty):
        positive, negative = encode(lazy(encoder, model), TEXT, empty)
        assert negative[0][0].shape == positive[0][0].shape and not negative[0][0].any() and positive[0][0].any()

    def test_the_base_models_empty_one_is_encoded(self, encoder, prompts_folder, stock):
        assert same(encode(lazy(encoder, BASE), TEXT)[1], stock_encode(stock, ""))

    def test_an_unknown_models_empty_one_is_encoded(self, encoder, prompts_folder, stock, models):
        renamed = models / "diffusion_models" / "mine.safetensors"
        renamed.write_bytes((models / "diffusion_models" / DISTILLED).read_bytes())
        for clip in (lazy(encoder, renamed.name), stock):
            assert same(encode(clip, TEXT)[1], stock_encode(stock, ""))
        assert not encode(lazy(encoder, renamed.name, "distilled"), TEXT)[1][0][0].any()

    @pytest.mark.parametrize(
        ("model", "said"),
        [
            (DISTILLED, "The negative prompt is not read at cfg 1, at which klein-9b distilled (its file name"),
            (KV, "The negative prompt is not read at cfg 1, at which klein-9b kv (its file name says kv)"),
            (BASE, ""),
        ],
    )
    def test_one_that_is_not_read_is_told(self, encoder, prompts_folder, stock, shown, caplog, model, said):
        negative = encode(lazy(encoder, model), TEXT, "blurry")[1]
        assert same(negative, stock_encode(stock, "blurry"))
        assert said in shown["Klein9BTextEncode"] and (said in caplog.text)
        assert ("negative prompt is" in shown["Klein9BTextEncode"]) == bool(said)

    def test_another_loaders_clip_does_not_say_which_model_it_is_for(self, stock, prompts_folder, shown):
        encode(stock, TEXT, "blurry")
        told = "The negative prompt is read only where cfg is above 1, so by the base model."
        assert told in shown["Klein9BTextEncode"]
        encode(stock, TEXT, "")
        assert told not in shown["Klein9BTextEncode"]


class TestWarnings:
    def test_weights(self, clip, shown, caplog):
        encode(clip, "a (red fox:1.2), (a:1), (b:1), (c:1)")
        told = "Klein reads (red fox:1.2), (a:1), (b:1) and more as plain text, brackets and numbers included"
        assert told in shown["Klein9BTextEncode"] and told in caplog.text

    def test_a_plain_prompt_is_told_nothing(self, clip, shown, caplog):
        caplog.set_level(logging.WARNING, "klein9b")
        encode(clip, TEXT)
        assert shown["Klein9BTextEncode"].startswith("prompt: encoded, ")
        encode(clip, TEXT)
        assert shown["Klein9BTextEncode"] == "prompt: kept from before (RAM)" and not caplog.records


class TestKept:
    def test_a_known_prompt_opens_nothing_after_a_restart(self, clip, encoder, opened, monkeypatch, shown):
        first = encode(clip, TEXT, "blurry")
        assert len(opened) == 1
        restart()
        later = lazy(encoder)
        monkeypatch.setattr(type(later), "tokenizer", property(lambda self: pytest.fail("tokenized")))
        again = encode(later, TEXT, "blurry")
        assert all(map(same, first, again)) and first[0][0][1].keys() == again[0][0][1].keys()
        assert not later.is_open and len(opened) == 1
        assert shown["Klein9BTextEncode"].startswith("prompt: kept from before (disk)\nnegative prompt: kept from")

    def test_an_open_encoder_finds_what_an_unopened_one_kept(self, clip, encoder, opened):
        encode(clip, TEXT)
        encode(clip, "another")
        restart()
        later = lazy(encoder)
        encode(later, TEXT)
        assert not later.is_open
        later.patcher.load_device  # noqa: B018
        encode(later, "another")
        assert later.is_open and len(opened) == 2

    def test_what_it_depends_on(self, clip, encoder, prompts_folder):
        from klein9b.nodes.host.kept_prompts import prompt_key
        from klein9b.nodes.host.klein_encoder import Precision

        key = prompt_key(clip, TEXT, Precision.FP32)
        assert key.outlives_process and prompt_key(lazy(encoder), TEXT, Precision.FP32) == key
        other_layer, other_tokens = clip.clone(), clip.clone()
        other_layer.clip_layer(-2)
        other_tokens.set_tokenizer_option("qwen3_8b_min_length", 2)
        others = [
            prompt_key(clip, TEXT + " ", Precision.FP32),
            prompt_key(clip, TEXT, Precision.BF16),
            prompt_key(other_layer, TEXT, Precision.FP32),
            prompt_key(other_tokens, TEXT, Precision.FP32),
        ]
        assert len({key, *others}) == 5

    def test_a_replaced_encoder_is_another(self, models, encoder, prompts_folder, opened):
        path = models / "text_encoders" / "mine.safetensors"
        path.write_bytes(encoder.read_bytes())
        first = encode(lazy(path), TEXT)[0]
        status = path.stat()
        save_file({k: v.to(torch.bfloat16) for k, v in text_encoder(seed=4).items()}, path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
        restart()
        assert not same(encode(lazy(path), TEXT)[0], first) and len(opened) == 2

    def test_an_encoder_replaced_after_the_loader_ran_is_kept_as_what_it_is(self, models, encoder, prompts_folder):
        path = models / "text_encoders" / "later.safetensors"
        path.write_bytes(encoder.read_bytes())
        clip = lazy(path)
        save_file({k: v.to(torch.bfloat16) for k, v in text_encoder(seed=4).items()}, path)
        new = encode(clip, TEXT)[0]
        restart()
        path.write_bytes(encoder.read_bytes())
        assert not same(encode(lazy(path), TEXT)[0], new)

    @pytest.mark.parametrize("open_first", [False, True])
    @pytest.mark.parametrize("part", ["tokenizer", "cond_stage_model", "patcher"])
    def test_a_replaced_part_is_another_and_stays_in_ram(self, clip, stock, part, open_first):
        import copy

        if open_first:
            clip.patcher.load_device  # noqa: B018
        key, other = key_of(clip), clip.clone()
        setattr(other, part, copy.copy(clip.tokenizer) if part == "tokenizer" else getattr(stock, part))
        assert key_of(other) != key and not key_of(other).outlives_process
        assert key_of(other) == key_of(other.clone())
        assert key_of(clip) == key and key.outlives_process
        again = clip.clone()
        setattr(again, part, getattr(clip, part))
        assert key_of(again) == key, "its own, given back"

    def test_a_replaced_tokenizer_encodes_anew(self, clip, shown):
        import copy

        first = encode(clip, TEXT)[0]
        other = clip.clone()
        other.tokenizer = copy.copy(clip.tokenizer)
        other.tokenizer.llama_template = "{}"
        assert not same(encode(other, TEXT)[0], first) and shown["Klein9BTextEncode"].startswith("prompt: encoded")

    def test_a_replaced_model_is_not_put_back(self, clip, stock):
        clip.cond_stage_model = stock.cond_stage_model
        assert clip.clone().cond_stage_model is stock.cond_stage_model
        clip.patcher.load_device  # noqa: B018
        assert clip.cond_stage_model is stock.cond_stage_model

    def test_a_template_changed_in_place_is_another(self, clip, encoder, stock, monkeypatch):
        from klein9b.nodes.host import lazy_clip

        keys = [key_of(clip), key_of(stock)]
        assert clip.file._tokenizer is None, "made by nobody yet"
        clip.tokenize("x")
        assert key_of(clip) == keys[0]
        monkeypatch.setattr(clip.tokenizer, "llama_template", "{}")
        monkeypatch.setattr(stock.tokenizer, "llama_template", "{}")
        assert lazy_clip.template_of(clip.tokenizer) == "{}"
        assert {key_of(clip), key_of(stock)}.isdisjoint(keys) and key_of(clip).outlives_process

    def test_saving_a_replaced_file_does_not_rename_the_weights_in_use(self, models, encoder, prompts_folder, opened):
        path = models / "text_encoders" / "saved.safetensors"
        path.write_bytes(encoder.read_bytes())
        clip = lazy(path)
        encode(clip, TEXT)
        key = key_of(clip)
        save_file({k: v.to(torch.bfloat16) for k, v in text_encoder(seed=4).items()}, path)
        clip.get_sd()
        assert len(opened) == 2 and key_of(clip) == key == key_of(clip.clone())
        assert key_of(lazy(path)) != key

    def test_the_device_is_the_same_before_and_after_the_host_moved_it(self, clip, monkeypatch):
        import comfy.model_management

        monkeypatch.setattr(comfy.model_management, "text_encoder_device", lambda: torch.device("meta"))
        key = key_of(clip)
        clip.patcher.load_device  # noqa: B018
        assert clip.patcher.load_device.type == "cpu" and key_of(clip) == key
        moved = clip.clone()
        moved.patcher.load_device = torch.device("meta")
        assert key_of(moved) != key

    def test_the_path_does_not_matter(self, models, encoder, prompts_folder, opened):
        """Linked under another name, as a library of models is."""
        link = models / "text_encoders" / "linked.safetensors"
        os.symlink(encoder, link)
        encode(lazy(encoder), TEXT)
        restart()
        encode(lazy(link), TEXT)
        assert len(opened) == 1

    def test_another_loaders_clip_is_kept_in_ram_alone(self, stock, encoder, prompts_folder, shown):
        encode(stock, TEXT)
        encode(stock.clone(), TEXT)
        assert shown["Klein9BTextEncode"].startswith("prompt: kept from before (RAM)")
        assert not prompts_folder.exists()
        restart()
        encode(stock, TEXT)
        assert "encoded" in shown["Klein9BTextEncode"]

    def test_two_models_of_one_shape_are_two(self, stock, encoder, prompts_folder, shown):
        encode(stock, TEXT)
        encode(stock_clip(encoder), TEXT)
        assert shown["Klein9BTextEncode"].startswith("prompt: encoded")

    def test_a_full_disk_costs_one_line(self, clip, opened, monkeypatch, caplog):
        from klein9b.klein import prompt_files

        def full(*_args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(prompt_files.Path, "write_bytes", full)
        assert encode(clip, TEXT)[0][0][0].any()
        assert caplog.text.count("No space left on device") == 1
        encode(clip, TEXT)
        assert len(opened) == 1

    def test_a_broken_file_is_written_anew(self, clip, encoder, prompts_folder, caplog):
        first = encode(clip, TEXT)[0]
        (path,) = prompts_folder.iterdir()
        path.write_bytes(path.read_bytes()[:-8])
        restart()
        assert same(encode(clip, TEXT)[0], first) and caplog.text.count(path.name) == 1
        restart()
        later = lazy(encoder)
        assert same(encode(later, TEXT)[0], first) and not later.is_open

    def test_what_is_not_finite_is_not_kept(self, clip, prompts_folder):
        name = "qwen3_8b.transformer.model.layers.2.mlp.up_proj.weight"
        clip.add_patches({name: (torch.full((32, 4096), torch.nan),)})
        assert not encode(clip, TEXT)[0][0][0].isfinite().all()
        assert not prompts_folder.exists()

    def test_no_model_is_held(self, encoder, prompts_folder):
        import gc

        import comfy.model_management

        clip = stock_clip(encoder)
        encode(clip, TEXT)
        model = weakref.ref(clip.cond_stage_model)
        comfy.model_management.unload_all_models()
        del clip
        gc.collect()
        assert model() is None


class TestPatches:
    """A LoRA on the encoder: another strength, order or tensor is another prompt; the same is found after a restart."""

    @staticmethod
    def patched(clip, *loras):
        import comfy.sd

        for seed, strength in loras:
            draw = torch.Generator().manual_seed(seed)
            layer = "text_encoders.qwen3_8b.transformer.model.layers.2.mlp.up_proj"
            up, down = torch.randn(32, 4, generator=draw), torch.randn(4, 4096, generator=draw) / 64
            lora = {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
            clip = comfy.sd.load_lora_for_models(None, clip, lora, 0.0, strength)[1]
        return clip

    def test_their_contents_count(self, clip, encoder):
        from klein9b.nodes.host.kept_prompts import prompt_key
        from klein9b.nodes.host.klein_encoder import Precision

        def key(*loras):
            return prompt_key(self.patched(lazy(encoder), *loras), TEXT, Precision.FP32)

        keys = [key(), key((1, 0.5)), key((1, 0.6)), key((2, 0.5)), key((1, 0.5), (2, 0.5)), key((2, 0.5), (1, 0.5))]
        assert len(set(keys)) == 6 and all(one.outlives_process for one in keys)
        assert key((1, 0.5)) == keys[1]

    def test_the_encoding_is_the_loras(self, clip, encoder, stock, opened):
        first = encode(self.patched(clip, (1, 0.5)), TEXT)[0]
        assert same(first, stock_encode(self.patched(stock, (1, 0.5)), TEXT))
        restart()
        assert same(encode(self.patched(lazy(encoder), (1, 0.5)), TEXT)[0], first)
        assert same(encode(lazy(encoder), TEXT)[0], stock_encode(stock, TEXT))

    def test_a_patch_that_is_code_stays_in_ram(self, clip, encoder, prompts_folder, shown):
        import comfy_extras.nodes_model_merging as merging

        (merged,) = merging.CLIPMergeSimple().merge(clip, self.patched(lazy(encoder), (1, 2.0)), 0.5)
        encode(merged, TEXT)
        encode(merged.clone(), TEXT)
        assert shown["Klein9BTextEncode"] == "prompt: kept from before (RAM)" and not prompts_folder.exists()
        restart()

    def test_hooks_pass_through_and_are_not_kept(self, clip, stock, prompts_folder):
        import comfy.hooks

        def hooked(one):
            one = one.clone(disable_dynamic=True)
            one.apply_hooks_to_conds = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
            return one

        ours = encode(hooked(clip), TEXT)[0]
        assert ours[0][1].keys() - {"klein9b_prompt"} == stock_encode(hooked(stock), TEXT)[0][1].keys() > {"hooks"}
        clip.patcher.forced_hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
        encode(clip, TEXT)
        assert not prompts_folder.exists()


class TestPromptText:
    """The text rides along, and the host's nodes neither lose nor mind it."""

    def test_the_hosts_nodes_keep_it(self, clip):
        import nodes

        positive = encode(clip, TEXT)[0]
        combined = nodes.ConditioningCombine().combine(positive, encode(clip, "two")[0])[0]
        assert [beside["klein9b_prompt"] for _, beside in combined] == [TEXT, "two"]
        for out in (
            nodes.ConditioningZeroOut().zero_out(positive)[0],
            nodes.ConditioningConcat().concat(positive, positive)[0],
            nodes.ConditioningAverage().addWeighted(positive, positive, 0.5)[0],
            nodes.ConditioningSetTimestepRange().set_range(positive, 0.0, 0.5)[0],
        ):
            assert out[0][1]["klein9b_prompt"] == TEXT

    def test_it_is_a_copy_of_what_is_kept(self, clip):
        encode(clip, TEXT)[0][0][1]["mine"] = True
        assert "mine" not in encode(clip, TEXT)[0][0][1]
