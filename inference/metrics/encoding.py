"""The posterior of each data point: means and standard deviations of the latents."""

from typing import Any, NamedTuple, cast

import pyro
import torch
from torch import Tensor

from inference.data.held_out import HeldOut
from inference.errors import UserError
from inference.metrics.codes import CHUNK
from ppl_models.base import LatentVariableModel


class Encoded(NamedTuple):
    """The guide's distributions of the latents of each data point.

    Attributes:
        mean: by name of the latent, (n, *event). The mean of a label is its probabilities, (n, classes).
        std: the standard deviations, likewise.
        codes: the indices of the codebook entries, (n, height, width), of a model with a codebook; its `mean`
            and `std` are empty. None for other models.
        y: labels (n,), or None.
    """

    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    codes: Tensor | None
    y: Tensor | None

    def arrays(self) -> dict[str, Tensor]:
        """Returns the tensors by the names of a file: `z_mean`, `z_std`, `codes` and `y`, as far as any."""
        named: dict[str, Tensor] = {}
        for name in self.mean:
            named |= {f"{name}_mean": self.mean[name], f"{name}_std": self.std[name]}
        others = {"codes": self.codes, "y": self.y}
        return named | {name: value for name, value in others.items() if value is not None}


@torch.no_grad()
def encode_points(model: LatentVariableModel, test: HeldOut) -> Encoded:
    """Computes the posterior of each data point, of images without noise, as linear probes see them.

    A latent that depends on other latents is conditioned on their modes; see `posterior` of a model.

    Args:
        model: the model. Its mode is preserved.
        test: the data.

    Raises:
        UserError: the model has no latents.
    """
    was_training, y = model.training, None if test.y is None else test.y.cpu()
    found: dict[str, list[Tensor]] = {}
    model.eval()
    try:
        with pyro.validation_enabled(False):
            for inputs, x, _ in test.chunks(CHUNK):
                for name, value in _encode(model, inputs | {"x": x}).items():
                    found.setdefault(name, []).append(value.cpu())
    finally:
        model.train(was_training)
    if not found:
        raise UserError(f"{type(model).__name__} has no latents to encode. Choose another model.")
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    codes = joined.pop("codes", None) if model.has_codebook else None
    mean, std = ({name[1:]: z for name, z in joined.items() if name[0] == which} for which in "ms")
    return Encoded(mean, std, codes, y)


def _encode(model: LatentVariableModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the codes of a batch, or the moments of each latent: `m` or `s` before its name."""
    if model.has_codebook:
        return {"codes": cast(Any, model).codes(**inputs).to(torch.uint8)}
    found = model.posterior(**inputs)
    return {f"m{name}": q.mean for name, q in found.items()} | {
        f"s{name}": q.variance.sqrt() for name, q in found.items()
    }
