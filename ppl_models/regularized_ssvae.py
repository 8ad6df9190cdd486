"""Semi-supervised variational auto-encoder with posterior regularization of its classifier."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import normalize, one_hot

from ppl_models import densities
from ppl_models.base import LatentVariableModel
from ppl_models.distributions import GreyBernoulliImage
from ppl_models.elbo_terms import KL, ELBOTerms
from ppl_models.nets.conv import ImageClassifier
from ppl_models.nets.heads import loc_scale
from ppl_models.nets.mlp import MLP

PROBE = 1.0  # length of the step along which the power iteration takes its finite difference
LABELLED_TERMS = ("x_labelled", "kl_z_labelled", "y_labelled")  # of the labelled images' bound


class RegularizedSSVAE(LatentVariableModel):
    """p(x, y, z) = p(y) p(z) p(x | y, z);  q(y, z | x) = q(y | x) q(z | x, y).

    p(y)        = uniform over the classes               y (classes, 1, classes), all labels, one-hot
    p(z)        = N(z; 0, I)                             z (classes, batch, z_dim), one per label and image
    p(x | y, z) = Bernoulli(x; logits = decoder(z, y))   x (batch, *shape), grey levels from 0 to 1
    q(y | x)    = Categorical(y; logits = classifier(x))
    q(z | x, y) = N(z; loc(x, y), diag scale(x, y)^2)    loc, scale (classes, batch, z_dim)

    -ELBO(x)    = KL(q(y | x) || p(y)) + sum_y q(y | x) [ KL(q(z | x, y) || p(z)) - log p(x | y, z) ]
    -ELBO(x, y) = KL(q(z | x, y) || p(z)) - log p(x | y, z) - log p(y)

    objective = mean_x -ELBO(x) + labelled_weight * mean_labelled -ELBO(x, y)
                + class_weight * mean_labelled -log q(y | x)
                + entropy_weight * mean_x H(q(y | x))
                + balance_weight * KL(mean_x q(y | x) || p(y))
                + smooth_weight * mean_all KL(q(y | x) || q(y | x + r(x)))

    The bounds are those of model M2. The other terms regularize the posterior q(y | x): it is certain, it
    uses all classes equally often, and it is the same at x and at x + r(x). The step r(x) has the length
    `radius` and the direction that changes q(y | x) most (virtual adversarial training); it has no gradient.
    Every penalty is at least 0. They need labelled images, which only training gives. There the classifier
    sees all images as one batch, of which batch norm takes the statistics.

    Kingma, Rezende, Mohamed and Welling 2014, Semi-supervised Learning with Deep Generative Models
    (arXiv 1406.5298), equations 6 to 9; Ganchev, Graca, Gillenwater and Taskar 2010, Posterior Regularization
    for Structured Latent Variable Models; Miyato, Maeda, Koyama and Ishii 2018, Virtual Adversarial Training
    (arXiv 1704.03976), equations 5 to 12.
    """

    inputs = ("x", "x_labelled", "y_labelled")
    estimators = ("enum",)
    observation = "shifted"
    has_label = True
    size_divisor = 4
    defaults = {
        **{"steps": 4_000, "batch_size": 100, "lr": 3e-3, "schedule": "cosine", "precision": "bfloat16"},
        "eval_every": 1_000,  # an evaluation takes as long as many steps
    }
    small_image_defaults = {"z_dim": 10, "hidden": 128, "labels": 20, "radius": 0.8}

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        z_dim: Annotated[int, "dimensions of the latent z"] = 50,
        hidden: Annotated[int, "width of the two hidden layers of encoder and decoder"] = 300,
        labels: Annotated[int, "total number of labelled images, equally many per class"] = 100,
        labelled_weight: Annotated[float, "weight of the labelled images' bound"] = 0.1,
        class_weight: Annotated[float, "weight of the mean cross-entropy of the labelled images"] = 100.0,
        entropy_weight: Annotated[float, "weight of the mean entropy of q(y | x)"] = 20.0,
        balance_weight: Annotated[float, "weight of KL(mean q(y | x) || p(y))"] = 60.0,
        smooth_weight: Annotated[float, "weight of the local distributional smoothness of q(y | x)"] = 100.0,
        radius: Annotated[float, "length of the virtual adversarial step, in units of x"] = 2.5,
    ):
        super().__init__(shape, classes)
        pixels = math.prod(shape)
        self.z_dim, self.labels, self.labelled_weight, self.radius = z_dim, labels, labelled_weight, radius
        weights = {
            "classification": class_weight,
            "entropy": entropy_weight,
            "balance": balance_weight,
            "smoothness": smooth_weight,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.classifier = ImageClassifier(shape, classes)
        self.encoder = MLP([pixels, classes], [hidden, hidden], 2 * z_dim)
        self.decoder = MLP([z_dim, classes], [hidden, hidden], pixels)

    def model(self, x: Tensor, x_labelled: Tensor | None = None, y_labelled: Tensor | None = None) -> None:
        if x_labelled is not None and self.labelled_weight > 0:
            with self._labelled_plate(len(x), len(x_labelled)):
                p_y = dist.Categorical(logits=x.new_zeros(self.classes))
                y = pyro.sample("y_labelled", p_y, obs=y_labelled)
                z = pyro.sample("z_labelled", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
                h = self.decoder(z, one_hot(y, self.classes).to(x.dtype))
                pyro.sample("x_labelled", GreyBernoulliImage(h, self.shape), obs=x_labelled)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.classes)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.z_dim), 1.0).to_event(1))
            h = self.decoder(z, y)  # (classes, batch, pixels)
            pyro.sample("x", GreyBernoulliImage(h, self.shape), obs=x)

    def guide(self, x: Tensor, x_labelled: Tensor | None = None, y_labelled: Tensor | None = None) -> None:
        if x_labelled is None or y_labelled is None:
            logits = self.classify(x)
        else:
            rows = torch.cat([x, x_labelled])
            every = self.classify(rows)
            logits = every[: len(x)]
            for name, penalty in self._penalties(rows, every, y_labelled).items():
                with poutine.scale(scale=self.weights[name] * len(x)):
                    pyro.factor(name, penalty, has_rsample=True)
            if self.labelled_weight > 0:
                y = one_hot(y_labelled, self.classes).to(x.dtype)
                with self._labelled_plate(len(x), len(x_labelled)):
                    loc, scale = loc_scale(self.encoder(x_labelled.flatten(1), y))
                    pyro.sample("z_labelled", dist.Normal(loc, scale).to_event(1))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=logits), infer={"enumerate": "parallel"})
            loc, scale = loc_scale(self.encoder(x.flatten(1), y))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    @contextmanager
    def _labelled_plate(self, batch: int, labelled: int) -> Iterator[None]:
        """The plate of the labelled images, whose sum over images is scaled to a weighted mean."""
        scale = self.labelled_weight * batch / labelled
        with pyro.plate("labelled", labelled), poutine.scale(scale=scale):
            yield

    def _penalties(self, rows: Tensor, logits: Tensor, y_labelled: Tensor) -> dict[str, Tensor]:
        """Returns the guide's penalties by name, each a mean over images, from Pyro's distributions.

        Args:
            rows: the images and then the labelled images, `(batch + labelled, *shape)`.
            logits: of q(y | x) of the rows, `(batch + labelled, classes)`.
            y_labelled: the labels of the last rows, `(labelled,)`.
        """
        count = len(rows) - len(y_labelled)
        q, q_labelled = dist.Categorical(logits=logits[:count]), dist.Categorical(logits=logits[count:])
        p_y = dist.Categorical(logits=logits.new_zeros(self.classes))

        def smoothness() -> Tensor:
            moved = dist.Categorical(logits=self._classify_perturbed(rows, logits))
            return kl_divergence(dist.Categorical(logits=logits.detach()), moved).mean()

        every: dict[str, Callable[[], Tensor]] = {
            "classification": lambda: -q_labelled.log_prob(y_labelled).mean(),
            "entropy": lambda: q.entropy().mean(),
            "balance": lambda: kl_divergence(dist.Categorical(q.probs.mean(0)), p_y),
            "smoothness": smoothness,
        }
        return {name: every[name]() for name in self.weights}

    def _classify_perturbed(self, x: Tensor, logits: Tensor) -> Tensor:
        """Returns the logits of q(y | x + r(x)) by the virtual adversarial step r(x), `(batch, classes)`.

        KL(q(y | x) || q(y | x + r)) is about r^T H r / 2. One step of the power iteration, d <- H d, brings
        the start d closer to the eigenvector of H with the largest eigenvalue. H d is a finite difference of
        two gradients, of which the one at r = 0 is 0. The start is the difference from x to the next image of
        the batch: it needs no random number, so that guide and `bound` have the same r(x). The gradient of
        the result does not go through r(x), and neither pass changes the averages of batch norm.

        Args:
            x: images, `(batch, *shape)`.
            logits: of q(y | x), `(batch, classes)`.
        """
        q = logits.detach().softmax(-1)
        with torch.enable_grad(), self.classifier.frozen_averages():
            step = (PROBE * unit_length(x.roll(1, 0) - x)).requires_grad_()
            cross_entropy = -(q * densities.log_softmax(self.classifier(x.detach() + step))).sum()
            (gradient,) = torch.autograd.grad(cross_entropy, step)
        with self.classifier.frozen_averages():
            return self.classifier(x + self.radius * unit_length(gradient))

    def bound(
        self,
        x: Tensor,
        latents: Mapping[str, Tensor],
        x_labelled: Tensor | None = None,
        y_labelled: Tensor | None = None,
        *,
        kl: KL = "closed",
    ) -> ELBOTerms:
        penalties: dict[str, Tensor] = {}
        if x_labelled is None or y_labelled is None:
            log_q = densities.log_softmax(self.classify(x))  # (batch, classes)
        else:
            rows = torch.cat([x, x_labelled])
            logits = self.classify(rows)
            log_q, log_q_labelled = densities.log_softmax(logits).split([len(x), len(x_labelled)])
            if "classification" in self.weights:
                penalties["classification"] = -log_q_labelled.gather(-1, y_labelled[:, None]).mean()
            if "entropy" in self.weights:
                penalties["entropy"] = -(log_q.exp() * log_q).sum(-1).mean()
            if "balance" in self.weights:
                penalties["balance"] = densities.kl_categorical_uniform(log_q.logsumexp(0))
            if "smoothness" in self.weights:
                log_p = torch.cat([log_q, log_q_labelled]).detach()
                log_r = densities.log_softmax(self._classify_perturbed(rows, logits))
                penalties["smoothness"] = (log_p.exp() * (log_p - log_r)).sum(-1).mean()
            if self.labelled_weight > 0:
                y = one_hot(y_labelled, self.classes).to(x.dtype)
                reconstruction, kl_z = self._given_label(x_labelled, y, latents["z_labelled"], kl)
                penalties |= {"x_labelled": reconstruction.mean(), "kl_z_labelled": kl_z.mean()}
                penalties |= {"y_labelled": x.new_tensor(math.log(self.classes))}
        y, z = latents["y"], latents["z"]  # all labels, and one z per label
        q = (y * log_q).sum(-1).exp()  # q(y | x), (classes, batch)
        reconstruction, kl_z = self._given_label(x, y, z, kl)
        weights = {**self.weights, **dict.fromkeys(LABELLED_TERMS, self.labelled_weight)}
        return ELBOTerms(
            reconstruction=(q * reconstruction).sum(0),
            kl_z=(q * kl_z).sum(0),
            kl_y=densities.kl_categorical_uniform(log_q),
            weights=weights,
            penalties=penalties,
        )

    def _given_label(self, x: Tensor, y: Tensor, z: Tensor, kl: KL) -> tuple[Tensor, Tensor]:
        """Returns -log p(x | y, z) and the KL term of z for images and one-hot labels, by hand."""
        x = x.flatten(1)
        loc, scale = loc_scale(self.encoder(x, y))
        kl_z = (
            densities.kl_normal_standard(loc, scale)
            if kl == "closed"
            else densities.normal(z, loc, scale) - densities.normal(z, 0.0, 1.0)
        )
        return -densities.bernoulli(x, self.decoder(z, y)), kl_z

    @property
    def has_penalties(self) -> bool:
        """Whether any penalty has a weight above 0."""
        return bool(self.weights) or self.labelled_weight > 0

    @property
    def labelled_images(self) -> int:
        """The number of labelled images, over all classes."""
        return self.labels

    def classify(self, x: Tensor) -> Tensor:
        """Returns the logits of q(y | x), `(batch, classes)`."""
        return self.classifier(x)


def unit_length(x: Tensor) -> Tensor:
    """Divides each image `(batch, *shape)` by its Euclidean norm; an image of zeros stays as it is."""
    return normalize(x.flatten(1), eps=1e-20).view_as(x)
