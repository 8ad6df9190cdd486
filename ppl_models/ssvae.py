"""Semi-supervised variational auto-encoder with an exact sum over the unknown label."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor
from torch.nn.functional import relu

from ppl_models import densities, likelihoods
from ppl_models.base import LatentVariableModel
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP


class SSVAE(LatentVariableModel):
    """p(x, y, z) = p(y) p(z) p(x | y, z);  q(y, z | x) = q(y | x) q(z | x, y).

    p(y)        = uniform over the classes               y (classes, 1, classes), all labels, one-hot
    p(z)        = N(z; 0, I)                             z (classes, batch, z_dim), one per label and image
    p(x | y, z) = Bernoulli(x; logits = decoder(z, y))   x (batch, *shape), zeros and ones; or, for vectors,
                  N(x; decoder(z, y), diag scale^2)      x (batch, d); scale (d,), learned
    q(y | x)    = Categorical(y; logits = classifier(x))
    q(z | x, y) = N(z; loc(x, y), diag scale(x, y)^2)    loc, scale (classes, batch, z_dim)

    -ELBO(x)  = KL(q(y | x) || p(y)) + sum_y q(y | x) [ KL(q(z | x, y) || p(z)) - log p(x | y, z) ]
    objective = gen_weight * mean_x -ELBO(x) + class_weight * mean_labelled -log q(y | x)

    The sum over y is exact (`TraceEnum_ELBO`). The labelled images are in a second plate, in which a site
    observes their labels. So the classification term is a scaled part of the model, and Pyro's ELBO is the
    whole objective.

    Kingma, Rezende, Mohamed and Welling 2014, Semi-supervised Learning with Deep Generative Models
    (arXiv 1406.5298), model M2 and its equation 9; sizes of Stanford's CS236.
    """

    inputs = ("x", "x_labelled", "y_labelled")
    estimators = ("enum",)
    has_label = True
    vector_observation = "points"
    defaults = {"steps": 30_000, "batch_size": 97, "lr": 1e-3}
    small_image_defaults = {"z_dim": 10, "hidden": 128, "steps": 5_000, "labels": 20, "class_weight": 10.0}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 64,
        hidden: Annotated[int, "width of the two hidden layers of each network"] = 300,
        labels: Annotated[int, "total number of labelled images, equally many per class"] = 100,
        gen_weight: Annotated[float, "weight of the bound; 0 trains only the classifier"] = 1.0,
        class_weight: Annotated[float, "weight of the mean cross-entropy of the labelled images"] = 100.0,
        likelihood: Annotated[likelihoods.Name, likelihoods.ABOUT] = "auto",
    ):
        super().__init__(shape, classes)
        if gen_weight == 0 and class_weight == 0:
            raise ValueError(
                "gen_weight and class_weight are both 0: nothing is left to train. Set one of them above 0."
            )
        pixels = math.prod(shape)
        self.z_dim, self.labels = z_dim, labels
        self.gen_weight, self.class_weight = gen_weight, class_weight
        self.classifier = MLP(pixels, [hidden, hidden], classes, activation=relu)
        self.encoder = MLP([pixels, classes], [hidden, hidden], 2 * z_dim)
        self.decoder = MLP([z_dim, classes], [hidden, hidden], pixels)
        self.likelihood = likelihoods.build(likelihood, self.shape)
        self.observation = likelihoods.observation(likelihood, self.shape, self.observation)

    def model(self, x: Tensor, x_labelled: Tensor | None = None, y_labelled: Tensor | None = None) -> None:
        if x_labelled is not None and self.class_weight > 0:
            scale = self.class_weight * len(x) / len(x_labelled)
            with pyro.plate("labelled", len(x_labelled)), poutine.scale(scale=scale):
                q_y = dist.Categorical(logits=self.classify(x_labelled))
                pyro.sample("classification", q_y, obs=y_labelled)
        if self.gen_weight == 0:
            return
        with pyro.plate("data", len(x)), poutine.scale(scale=self.gen_weight):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            h = self.decoder(z, y)  # (classes, batch, pixels)
            pyro.sample("x", self.likelihood.distribution(h), obs=x)

    def guide(self, x: Tensor, x_labelled: Tensor | None = None, y_labelled: Tensor | None = None) -> None:
        if self.gen_weight == 0:
            return
        with pyro.plate("data", len(x)), poutine.scale(scale=self.gen_weight):
            q_y = dist.OneHotCategorical(logits=self.classify(x))
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            loc, scale = loc_scale(self.encoder(x.flatten(1), y))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def bound(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        x_labelled: Tensor | None = None,
        y_labelled: Tensor | None = None,
        *,
        kl: KL = "closed",
    ) -> ELBOTerms:
        terms: dict[str, Any] = {}
        penalties = {}
        if x_labelled is not None and y_labelled is not None and self.class_weight > 0:
            log_q = densities.log_softmax(self.classify(x_labelled))  # (labelled, classes)
            penalties["classification"] = -log_q.gather(-1, y_labelled[:, None]).mean()
        if self.gen_weight > 0:
            y, z = latents["y"], latents["z"]  # all labels, and one z per label
            log_q = densities.log_softmax(self.classify(x))  # (batch, classes)
            q = (y * log_q).sum(-1).exp()  # q(y | x), (classes, batch)
            x = x.flatten(1)
            loc, scale = loc_scale(self.encoder(x, y))
            kl_z = (
                densities.kl_normal_standard(loc, scale)
                if kl == "closed"
                else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
            )
            terms = {
                "reconstruction": (q * -self.likelihood.log_density(x, self.decoder(z, y))).sum(0),
                "kl_z": (q * kl_z).sum(0),
                "kl_y": densities.kl_categorical_uniform(log_q),
            }
        weights = {**dict.fromkeys(terms, self.gen_weight), "classification": self.class_weight}
        return ELBOTerms(**terms, weights=weights, penalties=penalties)

    @property
    def has_penalties(self) -> bool:
        """Whether the labelled images' cross-entropy is part of the objective."""
        return self.class_weight > 0

    @property
    def labelled_images(self) -> int:
        """The number of labelled images, over all classes."""
        return self.labels

    def classify(self, x: Tensor) -> Tensor:
        """Returns the logits of q(y | x), `(batch, classes)`."""
        return self.classifier(x.flatten(1))
