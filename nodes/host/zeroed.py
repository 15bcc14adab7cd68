"""What stands for a negative prompt where none is read."""

from __future__ import annotations


def zeroed(conditioning: list) -> list:
    """Zeros in its shape, as in the official workflows; the host's own."""
    import nodes as host_nodes

    (zeros,) = host_nodes.ConditioningZeroOut().zero_out(conditioning)
    return zeros
