"""Auxiliary deep generative model: a semi-supervised variational auto-encoder with an auxiliary latent."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import one_hot, relu

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import BernoulliImage
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP, glorot_
from ppl_models.programs import latents_of


class ADGM(LatentVariableModel):
    """p(x, y, z, a) = p(y) p(z) p(x | y, z) p(a | y, z, x).

    q(a, y, z | x) = q(a | x) q(y | x, a) q(z | x, a, y)

    p(y)           = uniform over the classes               y (classes, 1, classes), all labels, one-hot
    p(z)           = N(z; 0, I)                             z (classes, batch, z_dim), one per label and image
    p(x | y, z)    = Bernoulli(x; logits = decoder(z, y))   x (batch, *shape), zeros and ones
    p(a | y, z, x) = N(a; loc(z, y, x), diag scale(z, y, x)^2)
    q(a | x)       = N(a; loc(x), diag scale(x)^2)          a (batch, a_dim), one per image
    q(y | x, a)    = Categorical(y; logits = classifier(x, a))
    q(z | x, a, y) = N(z; loc(x, a, y), diag scale(x, a, y)^2)

    With variant = sdgm, the skip deep generative model, p(a | y, z) p(x | y, z, a) replace the two factors
    p(x | y, z) p(a | y, z, x).

    -ELBO(x)    = KL(q(y | x, a) || p(y)) + sum_y q(y | x, a) [ log q(a | x) - log p(a | y, z, x)
                  + KL(q(z | x, a, y) || p(z)) - log p(x | y, z) ],    a ~ q(a | x), z ~ q(z | x, a, y)
    -ELBO(x, y) = log q(a | x) - log p(a | y, z, x) + KL(q(z | x, a, y) || p(z)) - log p(x | y, z) - log p(y)

    objective = mean_x -ELBO(x) + mean_labelled -ELBO(x, y)
                + class_weight * mean_labelled -log q(y | x, a),    a ~ q(a | x)

    The sum over y is exact (`TraceEnum_ELBO`). The guide of y and z alone is a mixture, the mean over a of
    q(y | x, a) q(z | x, a, y). p(a | y, z, x) does not change p(x, y, z): it makes the bound of this mixture
    tractable. z depends on a. So the term of a has no closed form, and it can be negative.

    Maaløe, Sønderby, Sønderby and Winther 2016, Auxiliary Deep Generative Models (arXiv 1602.05473), in its
    sizes. Its weight of the classification is alpha = 0.1 N / N_l = 60, for N images of which N_l have
    labels.
    """

    inputs = ("x", "x_labelled", "y_labelled")
    estimators = ("enum",)
    has_label = True
    label_latents = ("y", "a")
    defaults = {"steps": 120_000, "batch_size": 100, "lr": 1e-3, "ema": 0.999, "precision": "bfloat16"}
    small_image_defaults = {
        **{"z_dim": 10, "a_dim": 10, "hidden": 128, "steps": 5_000, "labels": 20, "class_weight": 10.0}
    }

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 100,
        a_dim: Annotated[int, "dimensions of the auxiliary latent a"] = 100,
        hidden: Annotated[int, "width of the two hidden layers of each network"] = 500,
        labels: Annotated[int, "total number of labelled images, equally many per class"] = 100,
        class_weight: Annotated[float, "weight of the mean cross-entropy of the labelled images"] = 60.0,
        variant: Annotated[Literal["adgm", "sdgm"], "a given x, y and z, or x given a, y and z"] = "adgm",
    ):
        super().__init__(shape, classes)
        pixels, widths = math.prod(shape), [hidden, hidden]
        self.z_dim, self.labels, self.class_weight = z_dim, labels, class_weight
        self.skip = variant == "sdgm"
        of_x, of_a = ([a_dim], []) if self.skip else ([], [pixels])  # further inputs of the two decoders
        self.auxiliary_encoder = MLP(pixels, widths, 2 * a_dim, relu)
        self.classifier = MLP([pixels, a_dim], widths, classes, relu)
        self.encoder = MLP([pixels, a_dim, classes], widths, 2 * z_dim, relu)
        self.decoder = MLP([z_dim, classes, *of_x], widths, pixels, relu)
        self.auxiliary_decoder = MLP([z_dim, classes, *of_a], widths, 2 * a_dim, relu)
        glorot_(self)

    def initialize(self, x: Tensor) -> None:
        """Sets the decoder's last bias, if it is zero, so that p(x | y, z) starts at the mean of the data."""
        if not self.decoder.output_bias.any():
            self.decoder.output_bias.copy_(x.flatten(1).mean(0).clamp(0.001, 0.999).logit())

    def model(self, x: Tensor, x_labelled: Tensor | None = None, y_labelled: Tensor | None = None) -> None:
        p_z = dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1)
        if x_labelled is not None:
            n = len(x_labelled)
            with pyro.plate("labelled", n), poutine.scale(scale=len(x) / n):
                p_y = dist.Categorical(logits=x.new_zeros(self.classes))
                y = pyro.sample("y_labelled", p_y, obs=y_labelled)
                self._generate(p_z, one_hot(y, self.classes).to(x.dtype), x_labelled, "_labelled")
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)))
            self._generate(p_z, y, x)

    def _generate(self, p_z: dist.TorchDistribution, y: Tensor, x: Tensor, suffix: str = "") -> None:
        """Samples z, x and a given one-hot labels; the names of the sites end with `suffix`."""
        z = pyro.sample(f"z{suffix}", p_z)
        if self.skip:
            p_a = dist.Normal(*loc_scale(self.auxiliary_decoder(z, y))).to_event(1)
            h = self.decoder(z, y, pyro.sample(f"a{suffix}", p_a))
            pyro.sample(f"x{suffix}", BernoulliImage(h, self.shape), obs=x)
        else:
            h = self.decoder(z, y)  # (classes, batch, pixels)
            x = pyro.sample(f"x{suffix}", BernoulliImage(h, self.shape), obs=x)
            p_a = dist.Normal(*loc_scale(self.auxiliary_decoder(z, y, x.flatten(1)))).to_event(1)
            pyro.sample(f"a{suffix}", p_a)

    def guide(self, x: Tensor, x_labelled: Tensor | None = None, y_labelled: Tensor | None = None) -> None:
        if x_labelled is not None and y_labelled is not None:
            n, flat = len(x_labelled), x_labelled.flatten(1)
            with pyro.plate("labelled", n), poutine.scale(scale=len(x) / n):
                a = pyro.sample("a_labelled", self._q_a(flat))
                if self.class_weight > 0:
                    log_q = dist.Categorical(logits=self.classifier(flat, a)).log_prob(y_labelled)
                    with poutine.scale(scale=self.class_weight):
                        pyro.factor("classification", -log_q, has_rsample=True)
                y = one_hot(y_labelled, self.classes).to(x.dtype)
                pyro.sample("z_labelled", self._q_z(flat, a, y))
        with pyro.plate("data", len(x)):
            x = x.flatten(1)
            a = pyro.sample("a", self._q_a(x))
            q_y = dist.OneHotCategorical(logits=self.classifier(x, a))
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            pyro.sample("z", self._q_z(x, a, y))

    def _q_a(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(*loc_scale(self.auxiliary_encoder(x))).to_event(1)

    def _q_z(self, x: Tensor, a: Tensor, y: Tensor) -> dist.TorchDistribution:
        return dist.Normal(*loc_scale(self.encoder(x, a, y))).to_event(1)

    def bound(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        x_labelled: Tensor | None = None,
        y_labelled: Tensor | None = None,
        *,
        kl: KL = "closed",
    ) -> ELBOTerms:
        x = x.flatten(1)
        penalties: dict[str, Tensor] = {}
        if x_labelled is not None and y_labelled is not None:
            flat, a, z = x_labelled.flatten(1), latents["a_labelled"], latents["z_labelled"]
            y = one_hot(y_labelled, self.classes).to(x.dtype)
            terms = self._given_label(flat, y, a, z, kl)
            penalties = {f"{name}_labelled": term.mean() for name, term in terms.items()}
            penalties["y_labelled"] = x.new_tensor(math.log(self.classes))
            if self.class_weight > 0:
                log_q = densities.log_softmax(self.classifier(flat, a))  # (labelled, classes)
                penalties["classification"] = -(y * log_q).sum(-1).mean()
        y, a, z = latents["y"], latents["a"], latents["z"]  # all labels, one a, and one z per label
        log_q = densities.log_softmax(self.classifier(x, a))  # (batch, classes)
        q = (y * log_q).sum(-1).exp()  # q(y | x, a), (classes, batch)
        terms = self._given_label(x, y, a, z, kl)
        return ELBOTerms(
            reconstruction=(q * terms["x"]).sum(0),
            kl_a=(q * terms["kl_a"]).sum(0),
            kl_z=(q * terms["kl_z"]).sum(0),
            kl_y=densities.kl_categorical_uniform(log_q),
            weights={"classification": self.class_weight},
            penalties=penalties,
        )

    def _given_label(self, x: Tensor, y: Tensor, a: Tensor, z: Tensor, kl: KL) -> dict[str, Tensor]:
        """Returns the terms of flat images and one-hot labels by hand: `x`, -log p(x), `kl_a` and `kl_z`."""
        loc, scale = loc_scale(self.encoder(x, a, y))
        log_q_a = densities.normal(a, *loc_scale(self.auxiliary_encoder(x)))
        if self.skip:
            p_a, logits = loc_scale(self.auxiliary_decoder(z, y)), self.decoder(z, y, a)
        else:
            p_a, logits = loc_scale(self.auxiliary_decoder(z, y, x)), self.decoder(z, y)
        return {
            "x": -densities.bernoulli(x, logits),
            "kl_a": log_q_a - densities.normal(a, *p_a),
            "kl_z": densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0),
        }

    @torch.no_grad()
    def prior(self, n: int) -> dict[str, Tensor]:
        """Samples y, z and a from the generative process: site name -> `(n, *event)`.

        a can depend on x, which is sampled too and left out.
        """
        return {name: value for name, value in latents_of(self.generate(n)).items() if name != "x"}

    @property
    def has_penalties(self) -> bool:
        """Whether the objective has more than the bound: that of the labelled images, and their labels."""
        return True

    @property
    def labelled_images(self) -> int:
        """The number of labelled images, over all classes."""
        return self.labels

    def classify(self, x: Tensor) -> Tensor:
        """Returns the logits of q(y | x, a) at the mean of q(a | x), `(batch, classes)`."""
        x = x.flatten(1)
        loc, _ = loc_scale(self.auxiliary_encoder(x))
        return self.classifier(x, loc)
