"""Attention by the rules of klein/attention_plan.py, a pair of tokens at a time, as a dense matrix of weights.

Written from the rules alone, with nothing of the plan's: softmax of logits + log W over all keys, in float64.
Regions are compared at the resolution LINES, which must be a multiple of their edges and of their masks' pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch

from klein9b.klein.influence import Box

LINES = 96


@dataclass(frozen=True)
class Token:
    """cell: row and column, of the picture's."""

    kind: str
    casts: frozenset[int] = frozenset()
    number: int = 0
    cell: tuple[int, int] = (0, 0)


class Rules:
    """The weights of one evaluation.

    Attributes:
        tokens: the prompt's, a negative prompt's, the picture's, the references'.
    """

    def __init__(self, settings, layout):
        self.settings = settings
        self.rows, self.columns = layout.picture
        self.tokens = [*self._text(layout.text), *[Token("negative")] * layout.negative]
        self.tokens += [Token("picture", cell=(r, c)) for r in range(self.rows) for c in range(self.columns)]
        for number, count in enumerate(layout.references, 1):
            casts = frozenset(i for i, cast in enumerate(settings.casts) if number in cast.references)
            self.tokens += [Token("reference", casts, number)] * count

    def _text(self, length):
        for place in range(length):
            yield Token("text", frozenset(i for i, cast in enumerate(self.settings.casts) if _has(cast, place, length)))

    def matrix(self, weigh):
        made = {}
        for q in self.tokens:
            for k in self.tokens:
                if (q, k) not in made:
                    made[q, k] = float(weigh(q, k))
        return torch.tensor([[made[q, k] for k in self.tokens] for q in self.tokens], dtype=torch.float64)

    def positive(self):
        """(tokens, tokens)."""
        return self.matrix(lambda q, k: self.weight(q, k) * (k.kind != "negative" or q.kind == "negative"))

    def against(self):
        """Likewise, of a second attention: the negative prompt in the prompt's place."""
        return self.matrix(lambda q, k: self.weight(q, k) * (k.kind != "text"))

    def guided(self):
        """(tokens,), of those whose two attentions make one."""
        there = any(token.kind == "negative" for token in self.tokens)
        return torch.tensor([there and token.kind in ("picture", "reference") for token in self.tokens])

    def weight(self, q, k):
        if {q.kind, k.kind} == {"text", "negative"}:
            return 0
        if k.kind == "picture" and q.casts:
            return any(self._at(self.settings.casts[i].where, k.cell) > 0 for i in q.casts)
        return self._strength(q, k) * self._membership(q, k)

    def _strength(self, q, k):
        influence = self.settings.influences.get(k.number)
        if k.kind != "reference" or q.kind == "reference" or influence is None:
            return 1
        there = 1 if influence.where is None or q.kind != "picture" else self._at(influence.where, q.cell)
        return influence.strength * there

    def _membership(self, q, k):
        if not k.casts:
            return 1
        theirs = [self.settings.casts[i].where for i in k.casts]
        if q.kind == "picture":
            return max(self._at(where, q.cell) for where in theirs)
        if q.casts & k.casts:
            return 1
        own = [self.settings.casts[i].where for i in q.casts] or [Box()]
        return bool((_fine(own) <= _fine(theirs) + 1e-6).all())

    def _at(self, where, cell):
        """How much of a picture's cell a region covers."""
        (row, column), (rows, columns) = cell, (self.rows, self.columns)
        if isinstance(where, Box):
            return _overlap(where.top, where.bottom, row, rows) * _overlap(where.left, where.right, column, columns)
        height, width = where.pixels.shape
        down, across = height // rows, width // columns
        assert (down * rows, across * columns) == (height, width)
        inside = where.pixels[row * down : (row + 1) * down, column * across : (column + 1) * across]
        return float(inside.double().mean())


def _has(cast, place, length):
    """Whether a token of a prompt that is filled up from the front is the cast's."""
    return any(start <= place - (length - cast.prompt_tokens) < stop for start, stop in cast.tokens)


def _overlap(start, stop, cell, cells):
    first, last = Fraction(cell, cells), Fraction(cell + 1, cells)
    return max(0.0, min(stop, float(last)) - max(start, float(first))) * cells


def _fine(regions):
    return torch.stack([_lines(where) for where in regions]).amax(dim=0)


def _lines(where):
    if isinstance(where, Box):
        line = (torch.arange(LINES, dtype=torch.float64) + 0.5) / LINES
        down, across = ((a <= line) & (line < b) for a, b in ((where.top, where.bottom), (where.left, where.right)))
        return (down[:, None] & across[None]).double()
    height, width = where.pixels.shape
    return where.pixels.double().repeat_interleave(LINES // height, 0).repeat_interleave(LINES // width, 1)


def attended(q, k, v, weights):
    """softmax(q k^T / sqrt(d) + log W) v -> (batch, queries, hidden), float64."""
    q, k, v = (one.double() for one in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5 + weights.log()
    return (logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def guided(positive, negative, strength, tau=1.5, alpha=0.5):
    """Equations 5 to 7 of arXiv 2505.21179, a token at a time."""
    away = positive + (strength - 1) * (positive - negative)
    ratio = away.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True)
    away = torch.where(ratio > tau, away * tau / ratio, away)
    return alpha * away + (1 - alpha) * positive


def by_rules(settings, layout, q, k, v):
    """All of it: (batch, queries, hidden), the queries the first of all tokens."""
    rules, count = Rules(settings, layout), q.shape[2]
    made = attended(q, k, v, rules.positive()[:count])
    if settings.negative is None:
        return made
    other = guided(made, attended(q, k, v, rules.against()[:count]), settings.negative.strength)
    return torch.where(rules.guided()[:count, None], other, made)
