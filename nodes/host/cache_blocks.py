"""How the references' keys and values reach the blocks: an argument to ours, an attention patch to the host's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ...kernels.eager.append_kv import append_kv
from ...klein.kv_cache import BlockReferences
from ...klein.transformer import EVERY_TOKEN, Span
from .block_functions import host_rope, is_hung_onto, plain
from .evaluation import Evaluation
from .own_blocks import ACCELERATION, OwnBlock, Place, Replacement, block_at, functions_by, own_block, places

if TYPE_CHECKING:
    from comfy.patcher_extension import WrapperExecutor

ARGUMENT = "klein9b_references"


class Rows(Protocol):
    """Keys and values for every row of a batch, block by block."""

    def read(self, index: int) -> BlockReferences: ...


class References:
    """One evaluation's references, on their way to its blocks.

    They are an argument of the diffusion model, which `reach_blocks` takes apart there. The host's compiler checks what
    a model's arguments are before it runs code that it has compiled, but nothing in transformer_options: what of ours
    lay there would be baked into the code that it runs for other graphs too, and they would be missed in ours.

    Attributes:
        own: places of the blocks that ours evaluate. The last of them leaves out the text's tokens, which nobody reads.
        asked: of each block, whether it has asked for its keys and values.
        deaf: foreign replacements of blocks that have run without asking.
    """

    def __init__(self, model: Any, rows: Rows, own: frozenset[Place]) -> None:
        self.rows = rows
        self.own = own
        self.doubles = len(model.double_blocks)
        self.asked = [False] * (self.doubles + len(model.single_blocks))
        self.deaf: list[Place] = []

    @property
    def missing(self) -> str | None:
        """Why not every block saw the references."""
        silent = self.asked.count(False)
        return (
            f"{silent} of {len(self.asked)} blocks did not ask for the references' keys and values" if silent else None
        )

    @property
    def unheard(self) -> str | None:
        """Which block never came to attend to them."""
        if not self.deaf:
            return None
        kind, index = self.deaf[0]
        return f"another node replaces {kind.replace('_', ' ')} {index}, which does not attend to the references"

    def read(self, index: int) -> BlockReferences:
        self.asked[index] = True
        return self.rows.read(index)

    def options(self, model: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Transformer options by which every block attends to the references."""
        replaced = options.get("patches_replace", {})
        patches = options.get("patches", {})
        before, behind = self._attention_patches()
        ours = {"attn1_patch": [before], "attn1_output_patch": [behind, *patches.get("attn1_output_patch", [])]}
        return options | {
            "patches": patches | ours,
            "patches_replace": replaced | {"dit": self._replacements(model, options, replaced.get("dit", {}))},
        }

    def _attention_patches(self) -> tuple[Any, Any]:
        """For the host's blocks, which call the first with normed queries and keys before they rotate them.

        It rotates them itself, appends, and leaves no position table for the host to rotate by again. A block keeps
        what it was handed until its end, so the second, behind attention, empties that.
        """
        rope = host_rope()
        handed: dict[str, Tensor | None] = {}

        def before(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            *,
            pe: Tensor,
            attn_mask: Tensor | None,
            extra_options: dict[str, Any],
        ) -> dict[str, Tensor | None]:
            index = extra_options["block_index"] + self.doubles * (extra_options["block_type"] == "single")
            k, v = append_kv(rope(plain(k), pe), plain(v), self.read(index).pair)
            handed.update(q=rope(plain(q), pe), k=k, v=v, pe=None, attn_mask=attn_mask)
            return handed

        def behind(attended: Tensor, _: dict[str, Any]) -> Tensor:
            handed.clear()
            return attended

        return before, behind

    def _replacements(
        self, model: Any, options: dict[str, Any], replaced: dict[Place, Replacement]
    ) -> dict[Place, Replacement]:
        """Ours with their references, and foreign ones listened to."""
        result = dict(replaced)
        for index, place in enumerate(places(model)):
            found = replaced.get(place)
            if place in self.own:
                ours = (
                    found
                    if isinstance(found, OwnBlock)
                    else own_block(place, block_at(model, place), functions_by(options))
                )
                result[place] = self._given(ours, index, options)
            elif found is not None:
                result[place] = self._listened_to(found, index, place)
        return result

    def _given(self, ours: OwnBlock, index: int, options: dict[str, Any]) -> Replacement:
        last = index == len(self.asked) - 1

        def replacement(args: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
            now = args["transformer_options"]
            args = args | {"transformer_options": now | {"patches": options.get("patches", {})}}
            computed = Span(now["img_slice"][0]) if last else EVERY_TOKEN
            return ours.evaluate(args, reference=self.read(index), computed=computed)

        return replacement

    def _listened_to(self, foreign: Replacement, index: int, place: Place) -> Replacement:
        def replacement(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            out = foreign(args, extra)
            if not self.asked[index]:
                self.deaf.append(place)
            return out

        return replacement


def reach_blocks(
    executor: WrapperExecutor,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    y: Tensor | None = None,
    guidance: Tensor | None = None,
    ref_latents: list[Tensor] | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] = {},  # noqa: B006 the host's own signature
    **kwargs: Any,
) -> Tensor:
    """Around the diffusion model, inside whatever compiles it: puts the references where its blocks look."""
    options = kwargs[ARGUMENT].options(executor.class_obj, transformer_options)
    return executor(x, timestep, context, y, guidance, ref_latents, control, options, **kwargs)


def with_references(evaluation: Evaluation, references: References) -> tuple[dict[str, Any], dict[str, Any]]:
    """Transformer options and conditioning that hand them to the blocks instead of the latents to the model."""
    import comfy.patcher_extension

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrappers = evaluation.options.get("wrappers", {})
    wrappers = wrappers | {kind: wrappers.get(kind, {}) | {ARGUMENT: [reach_blocks]}}
    conds = {name: cond for name, cond in evaluation.conds.items() if name != "ref_latents"}
    return evaluation.options | {"wrappers": wrappers}, conds | {ARGUMENT: references}


def own_places(model: Any, options: dict[str, Any], *, all_of_them: bool) -> frozenset[Place]:
    """Of the blocks that ours are to evaluate, as far as nobody else does.

    Args:
        all_of_them: not only the last block and those whose replacement is ours already. So it is too where blocks are
            accelerated.
    """
    replaced = options.get("patches_replace", {}).get("dit", {})
    every = places(model)
    ours = {place for place in every if isinstance(replaced.get(place), OwnBlock)}
    wanted = every if all_of_them or ACCELERATION in options else every[-1:]
    free = {p for p in wanted if p not in replaced and not is_hung_onto(block_at(model, p))}
    return frozenset(ours | free)
