"""The vector-quantised variational auto-encoder: latents out of a codebook."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import densities
from ppl_models.ae import SCALE
from ppl_models.base import KL, ELBOTerms, LatentVariableModel, scale_kl
from ppl_models.distributions import NormalImage, UniformCodes
from ppl_models.nets.codebook import Codebook
from ppl_models.nets.residual import WIDTH, ResidualDecoder, ResidualEncoder

GRID = (8, 8)


class VQVAE(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = prod_i 1 / codes                         z (batch, 256, 8, 8), at each place i an entry
    p(x | z) = N(x; decoder(z), I / (2 pi))             x (batch, *shape), levels from -1 to 1
    q(z | x) = Delta(z; the entry nearest to e(x) at each place)

    -ELBO(x)  = -log p(x | z) + 64 log codes,           z ~ q(z | x)
    objective = -ELBO / (pi D) + mean (c - sg e)^2 + commitment mean (sg c - e)^2    D values in an image

    The first is a bound: of a discrete latent whose posterior is a point. Divided so, it is the mean squared
    error and a constant. The other two are penalties, and no likelihoods: means over the entries c that were
    chosen and the encoder's outputs e, sg stopping the gradient. The first moves entries (with `--codebook
    average` moving averages do that, and it is left out), the second keeps e near them. No gradient goes
    through a choice: the decoder's goes straight on to e, as z is written e + sg(c - e). The course's loss is
    `loss` = mean squared error + mean (c - e)^2, twice.

    The uniform p(z) serves in training alone. A prior learned on the codes (`code_pixelcnn`,
    `code_transformer`) takes its place: only then do samples look like anything.

    Question 3 of Berkeley's CS294-158, homework 2 (2024); van den Oord, Vinyals and Kavukcuoglu 2017, Neural
    Discrete Representation Learning (arXiv 1711.00937).
    """

    estimators = ("trace",)
    observation, image_size = "centred", 32
    code_priors = ("pixelcnn", "transformer")
    defaults = {"steps": 4_000, "batch_size": 128, "lr": 1e-3, "clip": 1.0}
    small_image_defaults = {"steps": 200}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        codes: Annotated[int, "entries of the codebook"] = 128,
        codebook: Annotated[Literal["gradient", "average"], "how its entries are moved"] = "gradient",
        commitment: Annotated[float, "weight of the commitment penalty"] = 1.0,
    ):
        super().__init__(shape, classes)
        if codes > 256:
            raise ValueError(f"codes are kept in a byte each: at most 256, not {codes}")
        self.weight, self.commitment = 1 / (math.pi * math.prod(shape)), commitment
        self.encoder, self.decoder = ResidualEncoder(shape[0]), ResidualDecoder(shape[0])
        self.codebook = Codebook(codes, WIDTH, codebook == "average")

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), scale_kl(self.weight):
            z = pyro.sample("z", UniformCodes(self.codebook, GRID))
            pyro.sample("x", NormalImage(self.decoder(z), SCALE), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            e = self.encoder(x)
            if self.training:
                self.codebook.learn(e)
            c = self.codebook(e)
            for name, (weight, error) in self._penalties(e, c).items():
                with scale_kl(weight):
                    pyro.factor(name, error, has_rsample=True)
            with scale_kl(self.weight):
                pyro.sample("z", dist.Delta(e + (c - e).detach(), event_dim=3))

    def _penalties(self, e: Tensor, c: Tensor) -> dict[str, tuple[float, Tensor]]:
        """The guide's penalties by name: the weight, and the value for each image, (batch,)."""
        errors = {"commitment": (self.commitment, ((e - c.detach()) ** 2).mean((-1, -2, -3)))}
        if not self.codebook.average:
            errors["codebook"] = (1.0, ((c - e.detach()) ** 2).mean((-1, -2, -3)))
        return errors

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        z, e = latents["z"], self.encoder(x)
        c, mean = self.codebook(e), self.decoder(z)
        penalties = {"commitment": (c.detach() - e).square().mean()}
        if not self.codebook.average:
            penalties["codebook"] = (c - e.detach()).square().mean()
        squares, apart = ((x - mean) ** 2).mean((-1, -2, -3)), ((c - e) ** 2).mean((-1, -2, -3))
        return ELBOTerms(
            reconstruction=-densities.normal(x.flatten(-3), mean.flatten(-3), SCALE),
            kl_z=z.new_full(z.shape[:-3], math.prod(GRID) * math.log(len(self.codebook.entries))),
            weights={
                **{"reconstruction": self.weight, "kl_z": self.weight},
                **{"commitment": self.commitment, "codebook": 1.0},
            },
            penalties=penalties,
            metrics={"mean_squared_error": squares, "loss": squares + 2 * apart},
        )

    def code_counts(self, latents: Mapping[str, Tensor]) -> Tensor:
        """How many places of the latents are each entry of the codebook, (codes,)."""
        index = self.codebook.nearest(latents["z"])
        return index.flatten().bincount(minlength=len(self.codebook.entries))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The entries chosen for images (batch, *shape), by number: (batch, 8, 8)."""
        return self.codebook.nearest(self.encoder(x))

    @torch.no_grad()
    def decode_codes(self, index: Tensor) -> Tensor:
        """The mean images of codes (batch, 8, 8): (batch, *shape)."""
        return self.decode({"z": self.codebook.look_up(index)})
