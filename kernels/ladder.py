"""Which implementation of every op runs: the first of the table that can serve here and passes its self-check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .machine import Machine, Unfit, dtype_name, first_line, library, machine_of, sm_name
from .ops import Fp8Ops, Int8Ops, Ops
from .rungs import RUNGS, Backend, Op, Rotation, Rung
from .samples import CASES
from .self_check import self_check

# The product first: without one the others need not be compiled.
_INT8 = ("int8_linear", "layer_norm_modulate_int8", "gated_residual_norm_int8_", "swiglu_concat_int8")
_FP8 = ("layer_norm_modulate_fp8", "gated_residual_norm_fp8_", "swiglu_concat_fp8")
_OTHERS = tuple(name for name in CASES if name not in _INT8 + _FP8)
_SAID = {"triton": "Triton", "kitchen": "comfy_kitchen"}


@dataclass(frozen=True)
class Choice:
    """Who computes an op.

    Attributes:
        op: its name in `kernels/eager`.
        backend: "host" for an int8 or float8 op that is not used, because the linear layer makes its input so itself.
        reason: what the self-check found, and why each one before it in the table was left.
        exact: whether its bits equal those of the eager op on this device; eager and host change none.
    """

    op: str
    backend: Backend
    reason: str
    exact: bool


@dataclass(frozen=True)
class LadderOps:
    """The ops for one device, dtype and profile, and why they are these.

    Attributes:
        where: the device, the dtype, the profile and the libraries at hand.
    """

    ops: Ops
    choices: tuple[Choice, ...]
    where: str

    @property
    def table(self) -> str:
        """The choices as text to paste, a line for each op."""
        rows = [("op", "runs on", "equal bits", "because")]
        rows += [(one.op, one.backend, "yes" if one.exact else "no", one.reason) for one in self.choices]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join((*map(str.ljust, row, widths), row[3])) for row in rows]
        return "\n".join((self.where, *lines))


class Ladder:
    """A table of rungs, and what was chosen from it so far.

    Args:
        rungs: those of one op in the order in which they are tried; the eager op comes after all of them.
    """

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._rungs = tuple(rungs)
        self._kept: dict[tuple[object, ...], LadderOps] = {}

    def ops_for(
        self, like: Tensor, *, exact: bool, rotation: Rotation, int8: bool = True, fp8: bool = True
    ) -> LadderOps:
        """As the function of this name."""
        key = (like.device, like.dtype, exact, rotation, int8, fp8)
        if key in self._kept:
            return self._kept[key]
        climb = _Climb(self._rungs, machine_of(like.device, like.dtype), exact, rotation)
        if why := _no_time_to_check(like.device):
            return climb.eager(why)
        found, lasting = climb.found(int8, fp8)
        if lasting:
            self._kept[key] = found
        return found


_LADDER = Ladder(RUNGS)


def ops_for(like: Tensor, *, exact: bool, rotation: Rotation, int8: bool = True, fp8: bool = True) -> LadderOps:
    """The ops that serve best on a tensor's device and in its dtype. The first call tries them; later ones remember.

    Whatever cannot be imported or compiled, or fails its self-check, is left for the next of the table; the eager op is
    the last and always holds. While torch.compile traces or a CUDA graph is captured nothing is tried: what is not
    known yet is eager then.

    Args:
        exact: have every rounding of the eager ops mirrored. Whether bits are equal is what each choice says.
        rotation: the host's, of the formula of `eager.rope`; the same function each time, as it is remembered by it.
        int8, fp8: False leaves out the int8 or float8 ops, which a model without such weights has no use for.
    """
    return _LADDER.ops_for(like, exact=exact, rotation=rotation, int8=int8, fp8=fp8)


@dataclass(frozen=True)
class _Step:
    """What became of one op.

    Attributes:
        op: None where the eager op alone can serve.
        lasting: False where one was left for want of memory, which there may be another time.
    """

    op: Op | None
    choice: Choice
    lasting: bool


@dataclass(frozen=True)
class _Climb:
    """One way up."""

    rungs: tuple[Rung, ...]
    machine: Machine
    exact: bool
    rotation: Rotation

    def found(self, int8: bool, fp8: bool) -> tuple[LadderOps, bool]:
        """The ops, and whether they are to be remembered."""
        steps = {name: self._step(name) for name in _OTHERS}
        of_int8 = self._all_or_none(_INT8, "int8") if int8 else {}
        of_fp8 = self._all_or_none(_FP8, "float8") if fp8 else {}
        every = (*steps.values(), *of_int8.values(), *of_fp8.values())
        plain = {name: step.op or self._twin(name) for name, step in steps.items()}
        ops = Ops(**plain, int8=_int8_ops(of_int8), fp8=_fp8_ops(of_fp8))
        return LadderOps(ops, tuple(step.choice for step in every), self._where()), all(one.lasting for one in every)

    def eager(self, why: str) -> LadderOps:
        choices = tuple(Choice(name, "eager", why, True) for name in _OTHERS)
        return LadderOps(Ops(heads_norm_rope=self._twin("heads_norm_rope")), choices, self._where())

    def _all_or_none(self, names: Sequence[str], made: str) -> dict[str, _Step]:
        """Where an eager op would make a layer's input int8 or float8, the host's linear layer does it faster."""
        steps: dict[str, _Step] = {}
        for name in names:
            steps[name] = self._step(name)
            if steps[name].op is None:
                return {other: _left_to_the_host(other, made, steps[name]) for other in names}
        return steps

    def _step(self, name: str) -> _Step:
        left: list[str] = []
        lasting = True
        for rung in self.rungs:
            if rung.op != name:
                continue
            try:
                op, found, same = self._tried(rung)
            except Exception as error:
                left.append(f"{_SAID.get(rung.backend, rung.backend)} {_why(error)}")
                lasting &= not isinstance(error, torch.cuda.OutOfMemoryError)
            else:
                return _Step(op, Choice(name, rung.backend, _sentences([found, *left]), same), lasting)
        return _Step(None, Choice(name, "eager", _sentences(left), True), lasting)

    def _tried(self, rung: Rung) -> tuple[Op, str, bool]:
        machine = self.machine
        if why := rung.needs.why_not(machine):
            raise Unfit(why)
        op = rung.load(self.exact)
        verdict = self_check(rung.op, op, self._twin(rung.op), machine.device, machine.dtype, mirrored=self.exact)
        if not verdict.passed:
            raise Unfit(f"failed its self-check: {verdict.words}")
        return op, verdict.words[:1].upper() + verdict.words[1:], verdict.exact

    def _twin(self, name: str) -> Op:
        op = CASES[name].eager
        return partial(op, rotation=self.rotation) if name == "heads_norm_rope" else op

    def _where(self) -> str:
        machine = self.machine
        words = [str(machine.device), dtype_name(machine.dtype), "exact" if self.exact else "fast"]
        if machine.capability is not None:
            words[:1] = [torch.cuda.get_device_name(machine.device), sm_name(machine.capability)]
            words += [str(library("triton")), str(library("comfy_kitchen"))]
        return ", ".join((*words, f"torch {torch.__version__}"))


def _used(steps: Mapping[str, _Step]) -> dict[str, Op]:
    return {name: step.op for name, step in steps.items() if step.op is not None}


def _int8_ops(steps: Mapping[str, _Step]) -> Int8Ops | None:
    ops = _used(steps)
    if not ops:
        return None
    return Int8Ops(
        layer_norm_modulate=ops["layer_norm_modulate_int8"],
        gated_residual_norm_=ops["gated_residual_norm_int8_"],
        swiglu_concat=ops["swiglu_concat_int8"],
        linear=ops["int8_linear"],
    )


def _fp8_ops(steps: Mapping[str, _Step]) -> Fp8Ops | None:
    ops = _used(steps)
    if not ops:
        return None
    return Fp8Ops(
        layer_norm_modulate=ops["layer_norm_modulate_fp8"],
        gated_residual_norm_=ops["gated_residual_norm_fp8_"],
        swiglu_concat=ops["swiglu_concat_fp8"],
    )


def _left_to_the_host(name: str, made: str, failed: _Step) -> _Step:
    without = failed.choice
    why = without.reason if name == without.op else f"There is only the eager {without.op}"
    words = _sentences([why.rstrip("."), f"So the linear layer makes its input {made} itself"])
    return _Step(None, Choice(name, "host", words, True), failed.lasting)


def _no_time_to_check(device: torch.device) -> str | None:
    """A self-check reads what it made, which neither a trace nor a capture can do."""
    if torch.compiler.is_compiling():
        return "torch.compile is tracing: nothing is tried now."
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return "A CUDA graph is being captured: nothing is tried now."
    return None


def _why(error: Exception) -> str:
    if isinstance(error, Unfit):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "found no memory for its self-check"
    return f"failed: {first_line(error)}"


def _sentences(parts: Iterable[str]) -> str:
    return " ".join(f"{part}." for part in parts)
