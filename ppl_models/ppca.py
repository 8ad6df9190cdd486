"""Probabilistic principal component analysis: a linear VAE with exact log p(x)."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms


class PPCA(LatentVariableModel):
    """p(x, z) = p(z) p(x | z);  q(z | x).

    p(z)     = N(z; 0, I)                               z (batch, z_dim)
    p(x | z) = N(x; W z + b, s^2 I)                     x (batch, *shape), D values; W (D, z_dim)
    q(z | x) = N(z; A x + c, L L^T)                     L (z_dim, z_dim) lower triangular, or diagonal

    -ELBO(x) = -log p(x | z) + KL(q(z | x) || p(z)),    z ~ q(z | x)

    In closed form, with C = W W^T + s^2 I and M = W^T W + s^2 I:

    log p(x) = log N(x; b, C)
    p(z | x) = N(z; M^-1 W^T (x - b), s^2 M^-1)
    maximum likelihood: b is the mean of the data, W = U (Lambda - s^2 I)^(1/2) with the largest eigenvalues
    Lambda of the data's covariance and their eigenvectors U, and s^2 the mean of the other eigenvalues

    So the full guide can equal the posterior, and then every importance weight of x is p(x). A mean-field
    guide can equal it only if the columns of W are orthogonal. For both guides the optimum of the bound is
    the maximum likelihood: with the mean-field guide the columns of W become orthogonal.

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
        """L `(z_dim, z_dim)`, whose diagonal is parameterised by its logarithm."""
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
        """Returns log p(x) = log N(x; b, W W^T + s^2 I) of images `(batch, *shape)`, `(batch,)`."""
        w, variance = self.decoder.weight, (2 * self.log_scale).exp()
        covariance = w @ w.T + variance * torch.eye(len(w)).to(w)
        return densities.multivariate_normal(
            x.flatten(1), self.decoder.bias, torch.linalg.cholesky(covariance)
        )

    @torch.no_grad()
    def exact_posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean and covariance of the exact p(z | x); `posterior` returns the guide's q(z | x).

        Args:
            x: images, `(batch, *shape)`.

        Returns:
            The means `(batch, z_dim)` and the covariance `(z_dim, z_dim)`, which is the same for all images.
        """
        w, variance = self.decoder.weight, (2 * self.log_scale).exp()
        inverse = torch.linalg.inv(w.T @ w + variance * torch.eye(self.z_dim).to(w))
        return (x.flatten(1) - self.decoder.bias) @ w @ inverse, variance * inverse

    @torch.no_grad()
    def solve_guide(self) -> None:
        """Sets the guide to the minimiser of KL(q || p) in its family.

        The full guide becomes the posterior. The mean-field guide gets the posterior's means and the diagonal
        of the posterior's precision matrix.
        """
        w = self.decoder.weight
        origin, covariance = self.exact_posterior(w.new_zeros(1, *self.shape))
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
        """Sets the model to the maximum-likelihood solution for images `(n, *shape)`, and then the guide."""
        x = x.flatten(1)
        values, vectors = torch.linalg.eigh(x.T.cov(correction=0))  # in ascending order
        variance = values[: -self.z_dim].mean()
        self.decoder.weight.copy_(vectors[:, -self.z_dim :] * (values[-self.z_dim :] - variance).sqrt())
        self.decoder.bias.copy_(x.mean(0))
        self.log_scale.copy_(0.5 * variance.log())
        self.solve_guide()
