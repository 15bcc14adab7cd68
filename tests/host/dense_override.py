"""The host's attention with a dense matrix of weights, over all tokens in the host's own order.

What settings say of strengths, places, casts and taken-out tokens is a weight of each pair here, and no token leaves
the run: those taken out weigh nothing for every query. Nothing of klein9b's that acts in a run takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from dense_attention import Rules, attended

from host.edits import normal, prompt


class DenseOverride:
    """An optimized_attention_override.

    Attributes:
        settings: of a sigma.
        shapes: of queries and keys that it was called with.
    """

    def __init__(self, settings, references, picture=(4, 7), text=512):
        from klein9b.klein.attention_plan import Layout

        self.settings = settings if isinstance(settings, Callable) else lambda _: settings
        self.sizes = [one.shape[-2:] for one in references]
        self.layout = Layout(text, 0, picture, tuple(height * width for height, width in self.sizes))
        self.shapes = set()
        self._weights = {}

    def __call__(self, func, q, k, v, heads, *args, transformer_options=None, **options):
        assert options["skip_reshape"] and options.get("mask") is None
        self.shapes.add((q.shape[2], k.shape[2]))
        weights = self.weights(self.settings(float(transformer_options.get("sigmas", torch.ones(1))[0])))
        seen = {self.layout.tokens: slice(None), self.layout.own: slice(self.layout.own)}
        if k.shape[2] != self.layout.tokens:  # references among themselves
            only = slice(self.layout.own, None)
            return attended(q, k, v, weights[only, only]).to(q.dtype)
        return attended(q, k, v, weights[seen[q.shape[2]]]).to(q.dtype)

    def weights(self, settings):
        """A token that is out sees everything, as its own output is nobody's."""
        if id(settings) not in self._weights:
            present = {n: replace(one, strength=one.strength or 1.0) for n, one in settings.influences.items()}
            made = Rules(replace(settings, influences=present), self.layout).positive()
            out = self.out(settings)
            made[:, out] = 0
            made[out] = 1
            self._weights[id(settings)] = settings, made
        return self._weights[id(settings)][1]

    def out(self, settings):
        """(tokens,), of those that are taken out."""
        parts = [torch.zeros(self.layout.own, dtype=torch.bool)]
        for number, (height, width) in enumerate(self.sizes, 1):
            influence = settings.influences.get(number)
            if influence is None or (influence.kept is None and influence.strength > 0):
                parts.append(torch.zeros(height * width, dtype=torch.bool))
            elif influence.strength == 0:
                parts.append(torch.ones(height * width, dtype=torch.bool))
            else:
                parts.append(~influence.kept.flatten())
        return torch.cat(parts)


def densely(model, settings, references, **layout):
    """The model with its attention overridden, and the override."""
    clone, override = model.clone(), DenseOverride(settings, references, **layout)
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    return clone, override


def negative(strength=4.0, seed=2):
    from klein9b.klein.influence import Negative

    return Negative(prompt(seed), strength)


def other_tokens(reference, kept, seed=77):
    """The same reference with other numbers in the tokens that are not kept."""
    noise = 5 * normal(*reference.shape, seed=seed)
    return torch.where(kept, reference, noise)
