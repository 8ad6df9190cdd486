"""Class-conditional variational auto-encoder of colour images."""

import math
from collections.abc import Mapping
from typing import Annotated

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import one_hot

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import NormalImage
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP

SCALE = math.sqrt(0.1)  # of x: the variance is 0.1


class FSVAE(LatentVariableModel):
    """p(x, z | y) = p(z) p(x | z, y);  q(z | x, y).

    p(z)        = N(z; 0, I)                            z (batch, z_dim)
    p(x | z, y) = N(x; decoder(z, y), I / 10)           x (batch, *shape), levels from 0 to 1; y (batch,)
    q(z | x, y) = N(z; loc(x, y), diag scale(x, y)^2)   loc, scale (batch, z_dim)

    -ELBO(x | y) = -log p(x | z, y) + KL(q(z | x, y) || p(z)),    z ~ q(z | x, y)

    The label y is always given and z encodes the rest of the image, its style. Images are flattened with the
    channels first. -ELBO can be negative: a density of levels from 0 to 1 can exceed 1.

    The fully supervised model of Stanford's CS236 (2021), the bonus question, with its "v2" networks.
    """

    inputs = ("x", "y")
    estimators = ("mean_field", "trace", "iwae", "iwae_dreg")
    observation = "unit"
    has_label = True
    defaults = {"steps": 50_000, "batch_size": 100, "lr": 1e-3}
    small_image_defaults = {"hidden": 200, "steps": 3_000}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 10,
        hidden: Annotated[int, "width of the two hidden layers of each network"] = 500,
    ):
        super().__init__(shape, classes)
        values = math.prod(shape)
        self.z_dim = z_dim
        self.encoder = MLP([values, classes], [hidden, hidden], 2 * z_dim)
        self.decoder = MLP([z_dim, classes], [hidden, hidden], values)

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            mean = self.decoder(z, one_hot(y, self.classes).to(x)).unflatten(-1, self.shape)
            pyro.sample("x", NormalImage(mean, SCALE), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = loc_scale(self.encoder(x.flatten(1), one_hot(y, self.classes).to(x)))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], y: Tensor, *, kl: KL = "closed") -> ELBOTerms:
        z, x = latents["z"], x.flatten(1)
        label = one_hot(y, self.classes).to(x)
        loc, scale = loc_scale(self.encoder(x, label))
        kl_z = (
            densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        )
        return ELBOTerms(reconstruction=-densities.normal(x, self.decoder(z, label), SCALE), kl_z=kl_z)
