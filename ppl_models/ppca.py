"""Probabilistic principal component analysis: the linear VAE, whose log p(x) is known."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.base import KL, ELBOTerms, LatentVariableModel


class PPCA(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_dim)
    p(x | z) = N(x; W z + b, s^2 I)                     x (batch, *shape), of D values; W (D, z_dim)
    q(z | x) = N(z; A x + c, L L^T)                     L (z_dim, z_dim) lower triangular, or diagonal

    -ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)

    What is known, with C = W W^T + s^2 I and M = W^T W + s^2 I:

    log p(x) = log N(x; b, C)
    p(z | x) = N(z; M^-1 W^T (x - b), s^2 M^-1)
    maximum likelihood: b the mean, W = U (Lambda - s^2 I)^(1/2) from the largest eigenvalues of the data's
    covariance and their vectors, s^2 the mean of the other eigenvalues

    So the full guide can be the posterior, and then every importance weight of x is p(x) itself. A
    mean-field guide can be it only where the columns of W are orthogonal. Both have the maximum likelihood
    as their best bound: there the mean-field guide makes W's columns orthogonal.

    Tipping and Bishop 1999, Probabilistic Principal Component Analysis; Lucas, Tucker, Grosse and Norouzi
    2019, Don't Blame the ELBO! (arXiv 1911.02469).
    """

    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    observation = "unit"
    defaults = {"steps": 20_000, "batch_size": 97, "lr": 1e-2, "schedule": "cosine"}
    small_image_defaults = {"z_dim": 5, "steps": 5_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 10,
        guide: Annotated[Literal["full", "mean_field"], "covariance of q(z | x)"] = "full",
    ):
        super().__init__(shape, classes)
        pixels = math.prod(shape)
        self.z_dim, self.full = z_dim, guide == "full"
        self.decoder = nn.Linear(z_dim, pixels)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.encoder = nn.Linear(pixels, z_dim)
        self.raw_tril = nn.Parameter(torch.zeros(z_dim, z_dim) if self.full else torch.zeros(z_dim))

    @property
    def scale_tril(self) -> Tensor:
        """L (z_dim, z_dim): its diagonal is given by its logarithm."""
        if self.full:
            return self.raw_tril.tril(-1) + self.raw_tril.diagonal().exp().diag()
        return self.raw_tril.exp().diag()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z", dist.MultivariateNormal(x.new_zeros(self.z_dim), torch.eye(self.z_dim).to(x))
            )
            mean = self.decoder(z).unflatten(-1, self.shape)
            pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = self.encoder(x.flatten(1))
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.scale_tril))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *, kl: KL = "closed") -> ELBOTerms:
        x, z = x.flatten(1), latents["z"]
        loc, scale_tril = self.encoder(x), self.scale_tril
        return ELBOTerms(
            reconstruction=-densities.normal(x, self.decoder(z), self.log_scale.exp()),
            kl_z=densities.kl_multivariate_normal_standard(loc, scale_tril)
            if kl == "closed"
            else densities.multivariate_normal(z, loc, scale_tril) - densities.normal(z, 0.0, 1.0),
        )

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W^T + s^2 I) of images (batch, *shape): (batch,)."""
        w, variance = self.decoder.weight, (2 * self.log_scale).exp()
        covariance = w @ w.T + variance * torch.eye(len(w)).to(w)
        return densities.multivariate_normal(
            x.flatten(1), self.decoder.bias, torch.linalg.cholesky(covariance)
        )

    @torch.no_grad()
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(z | x) of images (batch, *shape): its means (batch, z_dim), its covariance (z_dim, z_dim)."""
        w, variance = self.decoder.weight, (2 * self.log_scale).exp()
        inverse = torch.linalg.inv(w.T @ w + variance * torch.eye(self.z_dim).to(w))
        return (x.flatten(1) - self.decoder.bias) @ w @ inverse, variance * inverse

    @torch.no_grad()
    def solve_guide(self) -> None:
        """Set the guide to the best of its kind: to the posterior, or to what is nearest without correlation.

        Nearest is where KL(q || p) is least: at the posterior's means, with the precisions on the diagonal of
        the posterior's precision.
        """
        w = self.decoder.weight
        origin, covariance = self.posterior(w.new_zeros(1, *self.shape))
        precision = torch.linalg.inv(covariance)
        self.encoder.weight.copy_(covariance @ w.T / (2 * self.log_scale).exp())
        self.encoder.bias.copy_(origin[0])
        if self.full:
            tril = torch.linalg.cholesky(covariance)
            self.raw_tril.copy_(tril.tril(-1) + tril.diagonal().log().diag())
        else:
            self.raw_tril.copy_(-0.5 * precision.diagonal().log())

    @torch.no_grad()
    def solve(self, x: Tensor) -> None:
        """Set the model to the maximum-likelihood solution for images (n, *shape), the guide to its best."""
        x = x.flatten(1)
        values, vectors = torch.linalg.eigh(x.T.cov(correction=0))  # in ascending order
        variance = values[: -self.z_dim].mean()
        self.decoder.weight.copy_(vectors[:, -self.z_dim :] * (values[-self.z_dim :] - variance).sqrt())
        self.decoder.bias.copy_(x.mean(0))
        self.log_scale.copy_(0.5 * variance.log())
        self.solve_guide()
