"""Autoregressive densities of codes: the priors that a VQ-VAE is given once it is trained."""

from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import densities
from ppl_models.base import KL, ELBOTerms, LatentVariableModel
from ppl_models.distributions import AutoregressiveGrid
from ppl_models.nets.pixelcnn import Causal, PixelCNN
from ppl_models.nets.transformer import CausalTransformer


def categorical(logits: Tensor) -> dist.Independent:
    """A code at each place of maps, from logits (..., codes, height, width): events (1, height, width)."""
    return dist.Categorical(logits=logits.movedim(-3, -1).unsqueeze(-4)).to_event(3)


class CodePrior(LatentVariableModel):
    """The model, guide and bound of both priors: what differs is the network."""

    estimators = ("trace",)
    observation, example_shape = "codes", (1, 8, 8)
    has_mean = False
    network: Causal
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

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) of codes (batch, 1, height, width): (batch,)."""
        return -self.bound(x, {}).terms["reconstruction"]


class CodePixelCNN(CodePrior):
    """p(x).

    p(x) = prod_i p(x_i | the codes above i, and to its left)     x (batch, 1, height, width), whole numbers
    p(x_i | ...) = Categorical(x_i; logits = network(x)_i)

    A PixelCNN whose field is the whole map: as many layers as it has rows or columns, less one. Nothing is
    latent and the guide is empty: the bound is the likelihood itself.

    The prior of Berkeley's CS294-158, homework 3 (2020), with the gated stacks of van den Oord et al. 2016,
    Conditional Image Generation with PixelCNN Decoders (arXiv 1606.05328).
    """

    defaults = {"steps": 8_600, "batch_size": 128, "lr": 1e-3, "schedule": "cosine", "clip": 1.0}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        codes: Annotated[int, "how many there are"] = 256,
        width: Annotated[int, "channels of each layer"] = 96,
    ):
        super().__init__(shape, classes)
        self.codes, reach = codes, max(shape[1:]) - 1
        self.network = PixelCNN(1, width, codes, reach, codes=codes)


class CodeTransformer(CodePrior):
    """p(x).

    p(x) = prod_i p(x_i | the codes before i)           x (batch, 1, height, width), whole numbers
    p(x_i | ...) = Categorical(x_i; logits = network(x)_i)

    A causal Transformer over the codes, row by row, behind a start of its own. Nothing is latent and the
    guide is empty: the bound is the likelihood itself.

    The prior of Berkeley's CS294-158, homework 2 (2024), with the sizes of its first homework.
    """

    defaults = {"steps": 8_600, "batch_size": 128, "lr": 1e-3, "schedule": "cosine", "lr_warmup": 500}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        codes: Annotated[int, "how many there are"] = 256,
        width: Annotated[int, "of the embedding"] = 128,
        heads: Annotated[int, "of the attention"] = 4,
        layers: Annotated[int, "of attention and two linear layers each"] = 4,
    ):
        super().__init__(shape, classes)
        if width % heads:
            raise ValueError(f"a width of {width} is not shared evenly by {heads} heads")
        self.codes = codes
        self.network = CausalTransformer(codes, (shape[1], shape[2]), width, heads, layers)
