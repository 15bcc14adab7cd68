"""Klein 9B Text Encode in the real host: what it returns is stock's, what it keeps comes back, what it warns of."""

import logging

import pytest
import torch
from prompt_encoding import BASE, DISTILLED, KV, TEXT, encode, lazy, restart, same, stock_encode
from safetensors.torch import save_file

LOG = "klein9b.nodes.text_encode"


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
