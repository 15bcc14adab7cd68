"""Who attends to what, and how strongly, in one evaluation: the settings resolved for its tokens.

Klein's tokens come in this order: the prompt, a negative prompt, the picture, the references. The rules:

* A token that is not a reference's sees reference r with log(strength) added to its logits, and a token of the picture
  with log of the region there too. References see each other as they always do.
* What belongs to a cast (a part of the prompt, a reference) is seen by the picture as far as the cast's region reaches,
  by the cast itself, and by tokens that the region wholly covers: what belongs to no cast is everywhere.
* What belongs to a cast sees of the picture its region alone.
* The negative prompt is seen by itself. The picture attends twice, to the prompt and to the negative, and is guided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ..kernels.eager.attention_parts import Part
from .influence import EVERYWHERE, AttentionSettings, Cast, Region
from .prompt import MAX_TOKENS

Run = tuple[int, int]
Weight = float | Tensor


@dataclass(frozen=True)
class Layout:
    """How many tokens of each kind an evaluation has.

    Attributes:
        picture: rows and columns.
        references: of each, after some are taken out.
    """

    text: int
    negative: int
    picture: tuple[int, int]
    references: tuple[int, ...]

    @property
    def own(self) -> int:
        """Those that are not references'."""
        rows, columns = self.picture
        return self.text + self.negative + rows * columns

    @property
    def tokens(self) -> int:
        return self.own + sum(self.references)

    @cached_property
    def starts(self) -> list[int]:
        """Of the prompt, the negative prompt, the picture, each reference, and the end."""
        rows, columns = self.picture
        return list(accumulate((self.text, self.negative, rows * columns, *self.references), initial=0))


@dataclass(frozen=True)
class Group:
    """Queries that attend to the same.

    Attributes:
        queries: from and to.
        parts: what they see.
        instead: of the first `replaced` parts, what they see in a second attention, away from which the result is
            guided; empty where there is no second one.
    """

    queries: Run
    parts: tuple[Part, ...]
    instead: tuple[Part, ...] = ()
    replaced: int = 0


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens that are treated alike.

    Attributes:
        kind: "text", "negative", "picture" or "reference".
        casts: they belong to; none for what is everywhere.
        number: of a reference, from 1.
    """

    kind: str
    run: Run
    casts: tuple[Cast, ...] = ()
    number: int = 0


def attention_plan(settings: AttentionSettings, layout: Layout, *, references_attend: bool = True) -> tuple[Group, ...]:
    """The groups that make up all queries, in order; empty where every token sees every other as it always does.

    Args:
        references_attend: not where their keys and values are known already.

    Raises:
        UnusableRegion: a mask has another shape than the picture.
    """
    planner = _Planner(settings, layout)
    there = [one for one in planner.tokens if one.run[0] < one.run[1]]
    groups = _joined([planner.group(one) for one in there if references_attend or one.kind != "reference"])
    return () if _plain(groups, layout.tokens) else tuple(groups)


def _plain(groups: Sequence[Group], tokens: int) -> bool:
    return not groups or (len(groups) == 1 and _sight(groups[0]) == ((0, tokens, 0.0), 0))


def reference_plan(settings: AttentionSettings, references: tuple[int, ...]) -> tuple[Group, ...]:
    """As `attention_plan` where references attend to references alone."""
    alone = replace(settings, negative=None)
    return attention_plan(alone, Layout(0, 0, (0, 0), references))


def unclaimed(casts: Sequence[Cast], height: int, width: int) -> float:
    """The share of the picture that no cast's region reaches."""
    reached = torch.stack([cast.where.on_grid(height, width) for cast in casts]).amax(dim=0)
    return float((reached == 0).float().mean())


class _Planner:
    def __init__(self, settings: AttentionSettings, layout: Layout) -> None:
        self.settings = settings
        self.layout = layout
        self._grids: dict[Region, Tensor] = {}
        self.tokens = [*self._text(), *self._others()]

    def group(self, queries: Tokens) -> Group:
        of_text = self._parts(queries, [one for one in self.tokens if one.kind == "text"])
        against = self._parts(queries, [one for one in self.tokens if one.kind == "negative"])
        rest = self._parts(queries, [one for one in self.tokens if one.kind in ("picture", "reference")])
        if queries.kind == "negative":
            return Group(queries.run, tuple(_adjoined([*against, *rest])))
        if self.layout.negative and queries.kind != "text":
            return Group(queries.run, (*of_text, *rest), tuple(against), len(of_text))
        return Group(queries.run, tuple(_adjoined([*of_text, *rest])))

    def _text(self) -> list[Tokens]:
        """The prompt cut where a cast's part of it begins or ends."""
        length = self.layout.text
        runs = {cast: self._runs(cast) for cast in self.settings.casts} if length else {}
        cuts = sorted({0, length, *(edge for each in runs.values() for run in each for edge in run)})
        return [
            Tokens("text", run, tuple(c for c, own in runs.items() if any(a <= run[0] < b for a, b in own)))
            for run in pairwise(cuts)
        ]

    def _runs(self, cast: Cast) -> list[Run]:
        """The host fills a prompt of less than 512 tokens up from the front; what is behind a longer one was joined."""
        text, own = self.layout.text, cast.prompt_tokens
        shift = text - own if own < MAX_TOKENS else 0
        return [(_within(start + shift, text), _within(stop + shift, text)) for start, stop in cast.tokens]

    def _others(self) -> list[Tokens]:
        _, negative, picture, *rest = self.layout.starts
        references = [
            Tokens("reference", run, tuple(c for c in self.settings.casts if number in c.references), number)
            for number, run in enumerate(pairwise(rest), 1)
        ]
        return [Tokens("negative", (negative, picture)), Tokens("picture", (picture, rest[0])), *references]

    def _parts(self, queries: Tokens, keys: list[Tokens]) -> list[Part]:
        parts = (self._part(queries, one) for one in keys if one.run[0] < one.run[1])
        return _adjoined([part for part in parts if part is not None])

    def _part(self, queries: Tokens, keys: Tokens) -> Part | None:
        if (keys.kind == "text" and queries.kind == "negative") or (keys.kind == "negative" and queries.kind == "text"):
            return None
        if keys.kind == "picture" and queries.casts:
            return self._of_picture(queries.casts, keys.run)
        weight = _times(self._strength(queries, keys), self._membership(queries, keys))
        return _part(keys.run, weight)

    def _strength(self, queries: Tokens, keys: Tokens) -> Weight:
        """Of a reference, in a token that is none."""
        influence = self.settings.influences.get(keys.number)
        if influence is None or queries.kind == "reference":
            return 1.0
        if influence.where is None or queries.kind != "picture":
            return influence.strength
        return self._grid(influence.where).flatten() * influence.strength

    def _membership(self, queries: Tokens, keys: Tokens) -> Weight:
        """How far the queries are where one of the keys' casts is."""
        if not keys.casts:
            return 1.0
        if queries.kind == "picture":
            return self._reach(keys.casts)
        if set(queries.casts) & set(keys.casts):
            return 1.0
        return float(_covers([cast.where for cast in keys.casts], [cast.where for cast in queries.casts]))

    def _of_picture(self, casts: tuple[Cast, ...], run: Run) -> Part | None:
        seen = self._reach(casts) > 0
        if bool(seen.all()):
            return Part(slice(*run))
        index = seen.nonzero().flatten() + run[0]
        return Part(index) if len(index) else None

    def _reach(self, casts: tuple[Cast, ...]) -> Tensor:
        """How far each token of the picture is in one of their regions."""
        return torch.stack([self._grid(cast.where) for cast in casts]).amax(dim=0).flatten()

    def _grid(self, region: Region) -> Tensor:
        if region not in self._grids:
            self._grids[region] = region.on_grid(*self.layout.picture)
        return self._grids[region]


def _covers(regions: Sequence[Region], others: Sequence[Region]) -> bool:
    """Whether the first together are everywhere that the others are; no others are everywhere."""
    reach, place = (_together(each) for each in (regions, others or [EVERYWHERE]))
    return bool((place <= reach).all())


def _together(regions: Sequence[Region]) -> Tensor:
    return torch.stack([region.sampled() for region in regions]).amax(dim=0)


def _within(token: int, tokens: int) -> int:
    return min(max(0, token), tokens)


def _part(run: Run, weight: Weight) -> Part | None:
    if isinstance(weight, Tensor):
        if bool((weight == weight[0]).all()):
            return _part(run, float(weight[0]))
        reached = weight.nonzero().flatten()
        logs = weight[reached].log()
        return Part(slice(*run), logs if bool(logs.any()) else 0.0, None if len(reached) == len(weight) else reached)
    return Part(slice(*run), _log(weight)) if weight > 0 else None


def _times(one: Weight, other: Weight) -> Weight:
    return one * other


def _log(weight: float) -> float:
    return math.log(weight) if weight != 1.0 else 0.0


def _adjoined(parts: Sequence[Part]) -> list[Part]:
    """The same with neighbours of one weight made one."""
    made: list[Part] = []
    for part in parts:
        before, now = _scalar(made[-1]) if made else None, _scalar(part)
        if before and now and before[1] == now[0] and before[2] == now[2]:
            made[-1] = Part(slice(before[0], now[1]), now[2])
        else:
            made.append(part)
    return made


def _scalar(part: Part) -> tuple[int, int, float] | None:
    """A run of keys and its weight, None where it is no run or a weight of each query's own."""
    if isinstance(part.keys, Tensor) or isinstance(part.log_weight, Tensor) or part.queries is not None:
        return None
    return part.keys.start, part.keys.stop, part.log_weight


def _joined(groups: Sequence[Group]) -> list[Group]:
    """The same with neighbours that see the same made one."""
    made: list[Group] = []
    for group in groups:
        if made and _sight(made[-1]) is not None and _sight(made[-1]) == _sight(group):
            made[-1] = replace(group, queries=(made[-1].queries[0], group.queries[1]))
        else:
            made.append(group)
    return made


def _sight(group: Group) -> tuple[object, ...] | None:
    """What a group sees, None where that is each query's own."""
    seen = [_scalar(part) for part in (*group.parts, *group.instead)]
    return None if None in seen else (*seen, group.replaced)
