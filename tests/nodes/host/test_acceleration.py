"""Accelerated stand-ins against the host's own forward, whatever else is hung onto the model."""

import logging
from dataclasses import replace

import pytest
import torch

from host.accelerating import TOLERANCE, Accelerated, eager, is_stock, refs
from host.edits import cached, edit, klein_model, normal, prompt, relative
from host.quantising_ops import fp8_ops, int8_ops
from standins.quantised import FORMATS

pytestmark = pytest.mark.usefixtures("comfy_host")
LOGGER = "klein9b.nodes.host.acceleration"
QKV = "double_blocks.0.img_attn.qkv.weight"


@pytest.fixture
def model():
    return klein_model()


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_it_is_stock(model, count, cfg):
    ours = Accelerated(model)
    is_stock(model, ours, count, cfg=cfg)
    assert ours.reports[0].accelerated and not ours.left
    assert ours.ops.calls["layer_norm_modulate"] and ours.ops.calls["gated_residual_norm_"]


def test_a_wrong_op_would_be_seen(model):
    from klein9b.kernels.eager.gated_residual import gated_residual_

    ours = Accelerated(model, gated_residual_=lambda x, y, gate: gated_residual_(x, y * 1.001, gate))
    assert relative(edit(ours.model), edit(model)) > 10 * TOLERANCE


def test_two_pictures_at_once(model):
    is_stock(model, Accelerated(model), noise=normal(2, 128, 4, 7, seed=3), cfg=3.0)


def test_guidance_in_two_evaluations(model, monkeypatch):
    from comfy.model_base import BaseModel

    monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)
    is_stock(model, Accelerated(model), 1, cfg=3.0)


def test_the_original_model_is_untouched(model):
    before = edit(model, refs(1))
    ours = Accelerated(model)
    edit(ours.model, refs(1))
    assert not model.object_patches and not model.wrappers
    assert torch.equal(edit(model, refs(1)), before) and len(ours.reports) == 1


def test_mlps_in_spans(model, monkeypatch):
    import klein9b.nodes.host.acceleration as acceleration

    monkeypatch.setattr(acceleration, "MLP_ROWS", 50)
    ours = Accelerated(model)
    is_stock(model, ours, 2)
    assert ours.ops.calls["swiglu_concat"] > 2 * 2 * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype, monkeypatch):
    """Bit for bit but for the last block, whose product has fewer rows."""
    model = klein_model()
    model.set_model_compute_dtype(dtype)
    is_stock(model, Accelerated(model), 1, tolerance=3e-2 if dtype is torch.bfloat16 else 4e-3)


class TestTheLastBlock:
    def tokens(self, model):
        seen = []
        last = model.model.diffusion_model.single_blocks[-1]
        last.linear2.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
        return seen

    def test_and_the_final_layer_compute_the_pictures_tokens(self, model):
        """Something hung onto a layer of the last block is called with what is left of the tokens."""
        final = []
        model.model.diffusion_model.final_layer.register_forward_hook(
            lambda _, args, __: final.append(args[0].shape[1])
        )
        seen, ours = self.tokens(model), Accelerated(model)
        edit(ours.model, refs(2))
        assert seen == final == [28] * 2

    def test_is_whole_beside_a_controlnet(self, model):
        def with_control(apply_model, args):
            add = 0.5 * normal(1, 28, 256, seed=8)
            control = {"input": [add], "output": [add, add]}
            return apply_model(args["input"], args["timestep"], **args["c"], control=control)

        controlled = model.clone()
        controlled.set_model_unet_function_wrapper(with_control)
        seen, ours = self.tokens(model), Accelerated(controlled)
        got = is_stock(controlled, ours, 1)
        assert relative(got, edit(model, refs(1))) > 1e-3
        assert set(seen) == {512 + 28 + 30}


class TestWithOthers:
    @pytest.mark.parametrize("comes", ["before", "behind"])
    @pytest.mark.parametrize("quantised_as", [None, "int8_tensorwise", "float8_e4m3fn"])
    def test_a_lora(self, comes, quantised_as):
        model = klein_model(quantised_as=quantised_as)
        wanted = with_lora(model)
        ours = Accelerated(wanted if comes == "before" else model)
        if comes == "behind":
            ours.model = with_lora(ours.model)
        got = is_stock(wanted, ours, 1)
        assert relative(got, edit(model, refs(1))) > 100 * TOLERANCE

    @pytest.mark.parametrize("name", FORMATS)
    def test_quantised_weights(self, name):
        model = klein_model(quantised_as=name)
        is_stock(model, Accelerated(model), 1)

    def test_hooks_that_change_weights_while_sampling(self, model):
        import comfy.hooks

        key = f"diffusion_model.{QKV}"
        hook, hooks = comfy.hooks.WeightHook(1.0, 0.0), comfy.hooks.HookGroup()
        hook.weights = {key: ("diff", (0.02 * normal(*model.model.state_dict()[key].shape, seed=6),))}
        hook.need_weight_init = False
        hooks.add(hook)
        got = is_stock(model, Accelerated(model), extra={"hooks": hooks})
        assert relative(got, edit(model)) > 100 * TOLERANCE

    @pytest.mark.parametrize("name", ["attn1_patch", "attn1_output_patch"])
    def test_attention_patches_are_left_to_the_host(self, model, caplog, name):
        patch = {
            "attn1_patch": lambda q, k, v, **_: {"q": q * 0.9, "k": k, "v": v},
            "attn1_output_patch": lambda attn, _: attn * 0.9,
        }
        patched = model.clone()
        patched.set_model_patch(patch[name], name)
        ours = Accelerated(patched)
        with caplog.at_level(logging.INFO, LOGGER):
            got = is_stock(patched, ours, 1)
        assert relative(got, edit(model, refs(1))) > 1e-4
        assert set(ours.left.values()) == {f"another node patches {name}, inside the block"}
        assert len(caplog.records) == 4, "one line a block, whatever the number of steps"

    def test_a_replaced_block_finds_ours_where_it_looks_for_the_hosts(self, model):
        halved = model.clone()

        def replacement(args, extra):
            out = extra["original_block"](args)
            return out | {"img": out["img"] * 0.5}

        halved.set_model_patch_replace(replacement, "dit", "single_block", 0)
        ours = Accelerated(halved)
        is_stock(halved, ours, 1)
        assert not ours.left and ours.reports[0].accelerated == 4 * 2

    def test_a_replacement_that_needs_positions(self, model):
        """The host is told that there are none where ours stand at every place."""
        seen = []
        watched = model.clone()

        def replacement(args, extra):
            seen.append(args["pe"].shape)
            return extra["original_block"](args)

        watched.set_model_patch_replace(replacement, "dit", "double_block", 1)
        is_stock(watched, Accelerated(watched), 1)
        assert set(seen) == {(1, 1, 512 + 28 + 30, 64, 2, 2)}

    def test_positions_that_another_node_changes(self, model):
        moved = model.clone()
        moved.set_model_patch(lambda args: args | {"img_ids": args["img_ids"] * 2}, "post_input")
        got = is_stock(moved, Accelerated(moved), 1)
        assert relative(got, edit(model, refs(1))) > 1e-4

    def test_a_block_with_a_forward_of_its_own(self, model, caplog):
        block = model.model.diffusion_model.single_blocks[0]
        stock = block.forward
        block.forward = lambda *args, **kwargs: stock(*args, **kwargs) * 0.5
        ours = Accelerated(model)
        is_stock(model, ours, 1)
        assert ours.left == {"single block 0": "something is hung onto it"}

    def test_timestep_zero_references(self, model):
        ours = Accelerated(model)
        got, wanted = (
            edit(one, refs(1), extra={"reference_latents_method": "index_timestep_zero"}) for one in (ours.model, model)
        )
        assert torch.equal(got, wanted) and "timestep zero" in ours.left["every block"]

    @pytest.mark.parametrize("method", ["offset", "uxo"])
    def test_other_places_for_references(self, model, method):
        is_stock(model, Accelerated(model), 2, extra={"reference_latents_method": method})

    def test_a_mask(self, model):
        mask = torch.zeros(1, 1, 540, 540)
        mask[..., :100] = -1e4
        ours = Accelerated(model)

        def evaluated(one):
            options = one.model_options["transformer_options"] | {"wrappers": one.wrappers}
            with torch.inference_mode():
                return one.model.diffusion_model(
                    normal(1, 128, 4, 7, seed=3), torch.ones(1), prompt(), attention_mask=mask,
                    transformer_options=options,
                )  # fmt: skip

        assert torch.equal(evaluated(ours.model), evaluated(model))

    def test_training(self, model, monkeypatch):
        import comfy.model_management

        monkeypatch.setattr(comfy.model_management, "in_training", True)
        ours = Accelerated(model)
        edit(ours.model)
        assert ours.left == {"every block": "the model is being trained"}

    def test_a_second_acceleration_replaces_the_first(self, model):
        first = Accelerated(model)
        second = Accelerated(first.model)
        is_stock(model, second)
        assert second.reports and not first.reports


class TestWithTheReferenceCache:
    @pytest.mark.parametrize("first", ["cache", "acceleration"])
    def test_it_is_the_cache(self, model, first):
        wanted = edit(cached(model)[0], refs(2))
        if first == "cache":
            kept, shown = cached(model)
            ours = Accelerated(kept)
        else:
            ours = Accelerated(model)
            ours.model, shown = cached(ours.model)
        for _ in range(2):
            assert relative(edit(ours.model, refs(2)), wanted) < TOLERANCE
        assert [line.split(":")[0] for line in shown] == ["miss", "hit"]
        assert not ours.left and ours.ops.calls["write_kv_"] == 4 * 2 * 2
        assert relative(edit(model, refs(2)), wanted) > 100 * TOLERANCE

    def test_with_guidance_and_int8_keys(self, model):
        from klein9b.klein.kv_store import Storage

        wanted = edit(cached(model, storage=Storage.INT8)[0], refs(2), cfg=4.0)
        ours = Accelerated(model)
        ours.model, shown = cached(ours.model, storage=Storage.INT8)
        assert relative(edit(ours.model, refs(2), cfg=4.0), wanted) < TOLERANCE
        assert ours.ops.calls["write_kv_int8_"] and shown[-1].startswith("miss"), "keys are those of one acceleration"

    def test_a_replacement_beside_it(self, model, caplog):
        watched = model.clone()
        watched.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "single_block", 0)
        wanted = edit(cached(watched)[0], refs(2))
        ours = Accelerated(cached(watched)[0])
        assert relative(edit(ours.model, refs(2)), wanted) < TOLERANCE


class TestInt8:
    """Layers whose input the op before them makes int8."""

    @pytest.fixture
    def model(self):
        return klein_model(quantised_as="int8_tensorwise")

    @pytest.mark.parametrize("count", [0, 2])
    @pytest.mark.parametrize("rows", [4096, 50])
    def test_it_is_stock(self, model, count, rows, monkeypatch):
        import klein9b.nodes.host.acceleration as acceleration

        monkeypatch.setattr(acceleration, "MLP_ROWS", rows)
        ours = Accelerated(model, int8=int8_ops())
        is_stock(model, ours, count)
        assert "layer_norm_modulate" not in ours.ops.calls and "swiglu_concat" not in ours.ops.calls

    def test_a_lora_is_in_the_matrix(self, model):
        wanted = with_lora(model)
        got = is_stock(wanted, Accelerated(wanted, int8=int8_ops()))
        assert relative(got, edit(model)) > 100 * TOLERANCE

    def test_with_the_cache(self, model):
        wanted = edit(cached(model)[0], refs(2))
        ours = Accelerated(cached(model)[0], int8=int8_ops())
        assert relative(edit(ours.model, refs(2)), wanted) < TOLERANCE

    def test_a_layer_with_something_hung_onto_it_is_called(self, model):
        seen = []
        layer = model.model.diffusion_model.double_blocks[0].img_mlp[0]
        layer.register_forward_hook(lambda _, args, __: seen.append(args[0].dtype))
        is_stock(model, Accelerated(model, int8=int8_ops()))
        assert set(seen) == {torch.float32}

    def test_a_run_can_be_stopped_at_every_layer(self, model, monkeypatch):
        import comfy.model_management

        asked, stopping = [], "throw_exception_if_processing_interrupted"
        monkeypatch.setattr(comfy.model_management, stopping, lambda: asked.append(1))
        edit(Accelerated(model, int8=int8_ops()).model, steps=1)
        assert len(asked) >= 2 * (8 + 2)


class TestFp8:
    """Layers whose input the op before them makes float8, multiplied as on a card that can."""

    SCALE = 0.0134

    @pytest.fixture(params=[None, SCALE], ids=["no scale", "a scale of the file"])
    def model(self, request, monkeypatch):
        import comfy.model_management

        monkeypatch.setattr(comfy.model_management, "SUPPORT_FP8_OPS", True)
        return klein_model(quantised_as="float8_e4m3fn", input_scale=request.param)

    @pytest.mark.parametrize("count", [0, 2])
    @pytest.mark.parametrize("rows", [4096, 50])
    def test_it_is_stock(self, model, count, rows, monkeypatch):
        import klein9b.nodes.host.acceleration as acceleration

        monkeypatch.setattr(acceleration, "MLP_ROWS", rows)
        ours = Accelerated(model, fp8=fp8_ops())
        is_stock(model, ours, count)
        assert "layer_norm_modulate" not in ours.ops.calls and "swiglu_concat" not in ours.ops.calls
        assert (ours.ops.calls["gated_residual_"] > 20) == (rows == 50), "a part of the tokens at a time"

    def test_parts_of_a_layers_output(self, model):
        from klein9b.kernels.eager.fp8_rows import fp8_rows
        from klein9b.klein.transformer import EVERY_TOKEN, Features, Span
        from klein9b.nodes.host.block_functions import linear_features, wanted

        layer, x = model.model.diffusion_model.single_blocks[0].linear1, normal(2, 9, 256, seed=9)
        parts = Features(256, 768, EVERY_TOKEN), Features(0, 256, Span(5)), Features(768, None, Span(5, 8))
        with torch.inference_mode():
            whole, got = layer(x), linear_features(layer, fp8_rows(x, wanted(layer, x)), parts, ops=eager())
        for one, part in zip(got, (whole[..., 256:768], whole[:, 5:, :256], whole[:, 5:8, 768:]), strict=True):
            assert one.shape == part.shape and relative(one, part) < TOLERANCE

    def test_a_wrong_scale_would_be_seen(self, model):
        ours = Accelerated(model, fp8=fp8_ops(lambda wanted: replace(wanted, scale=wanted.scale * 1.5)))
        assert relative(edit(ours.model), edit(model)) > 10 * TOLERANCE

    def test_a_lora_is_in_the_matrix(self, model):
        wanted = with_lora(model)
        got = is_stock(wanted, Accelerated(wanted, fp8=fp8_ops()))
        assert relative(got, edit(model)) > 100 * TOLERANCE

    def test_with_the_cache(self, model):
        wanted = edit(cached(model)[0], refs(2))
        ours = Accelerated(cached(model)[0], fp8=fp8_ops())
        assert relative(edit(ours.model, refs(2)), wanted) < TOLERANCE

    def test_a_layer_with_something_hung_onto_it_is_called(self, model):
        seen = []
        layer = model.model.diffusion_model.double_blocks[0].img_mlp[0]
        layer.register_forward_hook(lambda _, args, __: seen.append(type(args[0])))
        is_stock(model, Accelerated(model, fp8=fp8_ops()))
        assert set(seen) == {torch.Tensor}

    def test_a_kitchen_that_does_not_tell_how_it_rounds_leaves_it_to_the_layer(self, model, monkeypatch, caplog):
        import klein9b.nodes.host.fp8_layers as fp8_layers

        def gone(device, dtype):
            raise AttributeError("no get_capable_backend")

        fp8_layers._is_rounded.cache_clear()
        monkeypatch.setattr(fp8_layers, "fp8_is_rounded", gone)
        ours = Accelerated(model, fp8=fp8_ops())
        is_stock(model, ours)
        fp8_layers._is_rounded.cache_clear()
        assert ours.ops.calls["layer_norm_modulate"] and not ours.left
        (line,) = [line for line in caplog.messages if "get_capable_backend" in line]
        assert "float8" in line

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("weight_function", [lambda weight: weight]),
            ("comfy_force_cast_weights", True),
            ("_full_precision_mm", True),
            ("pre_quant_scale", torch.ones(256)),
            ("forward", None),
        ],
    )
    def test_a_layer_that_the_host_treats_otherwise_is_asked_for_nothing(self, model, name, value):
        from klein9b.nodes.host.block_functions import wanted

        layer, x = model.model.diffusion_model.double_blocks[0].img_mlp[0], torch.ones(1, 2, 256)
        assert wanted(layer, x).scale == (self.SCALE if hasattr(layer, "input_scale") else 1)
        setattr(layer, name, value)
        assert wanted(layer, x) is None

    def test_a_card_without_fp8_products_gets_its_input_as_it_is(self, monkeypatch):
        model = klein_model(quantised_as="float8_e4m3fn", input_scale=self.SCALE)
        ours = Accelerated(model, fp8=fp8_ops())
        is_stock(model, ours)
        assert ours.ops.calls["layer_norm_modulate"] and ours.ops.calls["swiglu_concat"]


def with_lora(model):
    clone = model.clone()
    for key in (QKV, "single_blocks.1.linear1.weight"):
        shape = clone.model.state_dict()[f"diffusion_model.{key}"].shape
        clone.add_patches({f"diffusion_model.{key}": ("diff", (normal(*shape, seed=5) * 0.02,))}, 0.7)
    return clone


@pytest.mark.parametrize(
    ("tokens", "free", "rows"),
    [
        (4608, None, None),
        (4609, None, 2305),
        (8704, None, 4352),
        (12800, None, 4267),
        (4608, 2**40, None),
        (4608, 1, 2304),
        (512, 1, None),
        (0, 1, None),
    ],
)
def test_how_many_tokens_go_through_an_mlp_at_a_time(tokens, free, rows):
    from klein9b.nodes.host.acceleration import mlp_rows

    assert mlp_rows(torch.empty(1, tokens, 8), free) == rows
