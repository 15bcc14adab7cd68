"""What quantising a file cost, in words."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Layer:
    """A matrix that was rounded.

    Attributes:
        error: root mean square of what was lost, over that of the weights.
    """

    name: str
    shape: tuple[int, int]
    error: float


@dataclass(frozen=True)
class Report:
    """
    Attributes:
        kept: the matrices that were not rounded.
        before, after: bytes of the files.
    """

    source: str
    target: str
    layers: tuple[Layer, ...]
    kept: tuple[str, ...]
    before: int
    after: int

    @property
    def worst(self) -> Layer:
        return max(self.layers, key=lambda layer: layer.error)

    def summary(self) -> str:
        """A few lines, for under a node."""
        middle = median(layer.error for layer in self.layers)
        return "\n".join(
            [
                f"{self.target}: {self.after / 1e9:.2f} GB, from {self.before / 1e9:.2f} GB.",
                f"{len(self.layers)} matrices in int8, {len(self.kept)} kept.",
                f"Error of a matrix: median {middle:.2%}, worst {self.worst.error:.2%} in {self.worst.name}.",
            ]
        )

    def table(self) -> str:
        """The summary, then every matrix, the worst first."""
        worst_first = sorted(self.layers, key=lambda layer: -layer.error)
        rounded = [f"{layer.error:7.3%}  {layer.shape[0]} x {layer.shape[1]}  {layer.name}" for layer in worst_first]
        kept = [f"   kept  {name}" for name in self.kept]
        return "\n".join([self.summary(), "", *rounded, *kept])
