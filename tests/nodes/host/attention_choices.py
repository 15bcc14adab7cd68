"""Choices of attention put on a model, and what they are called with. No GPU is needed: backends are played."""

import torch

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# Two float32 programs that order their sums differently.
SAME_MATHS = 1e-5
HEADS, HEAD_DIM = 2, 128
BLOCKS = 4


def choose(choice, device=GPU, **options):
    from klein9b.nodes.host.attention_choice import choose

    return choose(choice, device, **options)


def put_on(model, choice):
    from klein9b.nodes.host.attention_choice import put_on

    return put_on(model, choice)


def overridden(model, choice):
    model = model.clone()
    assert put_on(model, choice) is choice
    return model


def drawn(*, tokens=2100, heads=HEADS, head_dim=HEAD_DIM, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((1, heads, tokens, head_dim), generator=generator).to(dtype) for _ in range(3)]


class Spy:
    """The host's attention as an override gets it: counts its calls and their options."""

    def __init__(self):
        self.calls = []

    def __call__(self, q, k, v, heads, **options):
        self.calls.append(options)
        return "the host's own"
