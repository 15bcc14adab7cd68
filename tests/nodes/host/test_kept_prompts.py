"""Encoded prompts in the real host: what is kept comes back, and nothing else does."""

import errno
import os
import weakref

import pytest
import torch
from prompt_encoding import TEXT, encode, key_of, lazy, restart, same, stock_clip, stock_encode
from safetensors.torch import save_file

from standins.text_encoder import text_encoder

LOG = "klein9b.nodes.text_encode"


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
