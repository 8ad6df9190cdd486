"""Autoregressive prior of a trained VQ-VAE's codes."""

from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import AutoregressiveGrid
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.pixelcnn import CausalNetwork, PixelCNN
from ppl_models.nets.transformer import CausalTransformer


def categorical(logits: Tensor) -> dist.Independent:
    """Returns one categorical per position, with events `(1, height, width)`.

    Args:
        logits: `(..., codes, height, width)`.
    """
    return dist.Categorical(logits=logits.movedim(-3, -1).unsqueeze(-4)).to_event(3)


class CodePrior(LatentVariableModel):
    """The model, guide and bound that both priors share; each has its own network."""

    estimators = ("trace",)
    observation, example_shape = "codes", (1, 8, 8)
    has_latents = has_mean = False
    values_option = "codes"
    network: CausalNetwork
    codes: int

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", AutoregressiveGrid(self.network, categorical, self.shape), obs=x)

    def guide(self, x: Tensor) -> None:
        pass

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        log_p = densities.log_softmax(self.network(x).movedim(-3, -1))  # (batch, height, width, codes)
        each = log_p.gather(-1, x.movedim(-3, -1).long()).flatten(1)
        return ELBOTerms(reconstruction=-each.sum(-1), metrics={"nats_per_code": -each.mean(-1)})

    @property
    def levels(self) -> int:
        """The number of codes."""
        return self.codes

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Returns log p(x) of codes `(batch, 1, height, width)`, `(batch,)`."""
        return -self.bound(x, {}).terms["reconstruction"]


class CodePixelCNN(CodePrior):
    """p(x).

    p(x) = prod_i p(x_i | the codes above i, and to its left)     x (batch, 1, height, width), integers
    p(x_i | ...) = Categorical(x_i; logits = network(x)_i)

    The network is a PixelCNN whose receptive field is the whole map: one layer less than the map has rows or
    columns. The model has no latents and the guide is empty: the bound equals the log-likelihood.

    The prior of Berkeley's CS294-158, homework 3 (2020), with the gated stacks of van den Oord et al. 2016,
    Conditional Image Generation with PixelCNN Decoders (arXiv 1606.05328).
    """

    defaults = {"steps": 8_600, "batch_size": 128, "lr": 1e-3, "schedule": "cosine", "clip": 1.0}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        codes: Annotated[int, "number of different codes"] = 256,
        width: Annotated[int, "channels of each layer"] = 96,
    ):
        super().__init__(shape, classes)
        self.codes, receptive_field = codes, max(shape[1:]) - 1
        self.network = PixelCNN(1, width, codes, receptive_field, codes=codes)


class CodeTransformer(CodePrior):
    """p(x).

    p(x) = prod_i p(x_i | the codes before i)           x (batch, 1, height, width), integers
    p(x_i | ...) = Categorical(x_i; logits = network(x)_i)

    The network is a causal Transformer over the codes, row by row, with a learned start token. The model has
    no latents and the guide is empty: the bound equals the log-likelihood.

    The prior of Berkeley's CS294-158, homework 2 (2024), with the sizes of its first homework.
    """

    defaults = {"steps": 8_600, "batch_size": 128, "lr": 1e-3, "schedule": "cosine", "lr_warmup": 500}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        codes: Annotated[int, "number of different codes"] = 256,
        width: Annotated[int, "dimensions of the embedding"] = 128,
        heads: Annotated[int, "attention heads per layer"] = 4,
        layers: Annotated[int, "Transformer layers"] = 4,
    ):
        super().__init__(shape, classes)
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}. Choose another width.")
        self.codes = codes
        self.network = CausalTransformer(codes, (shape[1], shape[2]), width, heads, layers)
