"""An estimate per image with its Monte Carlo error, and the metric that it becomes."""

from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """Values per image, (images,), and their Monte Carlo variances, (images,)."""

    value: Tensor
    variance: Tensor

    def minus(self, other: "Estimate") -> "Estimate":
        """Returns the difference from an estimate with independent noise."""
        return Estimate(self.value - other.value, self.variance + other.variance)

    def metric(self) -> dict[str, float]:
        """Returns the mean over images, its standard error over them, and its Monte Carlo error."""
        n = len(self.value)
        metric = {"value": self.value.mean().item()}
        if n > 1:
            metric["se"] = (self.value.std() / n**0.5).item()
        return metric | {"mc_se": self.variance.sum().sqrt().item() / n}
