"""What every model of the suite is: two Pyro programs, `model` and `guide`, and the bound derived by hand."""

import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ClassVar, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.functional import one_hot

KL = Literal["closed", "sampled"]


class ELBOTerms:
    """The terms of a negative evidence lower bound, one number an image, in nats.

    `terms` holds `reconstruction` = -log p(x | latents) and one divergence a latent (`kl_z`, `kl_y`, ...),
    each of shape (batch,), or (particles, batch) where the latents lead with particles. A divergence given
    as None says that its latent has no prior term: what is left bounds nothing. `penalties` holds
    scalars that are minimised beside the bound and are no part of it. `weights` says by what a term or a
    penalty is multiplied in the objective (one where it is silent); the bound itself is never weighted.
    `asides` holds figures (..., batch) that are reported and not minimised, such as a squared error.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        penalties: Mapping[str, Tensor] | None = None,
        metrics: Mapping[str, Tensor] | None = None,
        **terms: Tensor | None,
    ):
        given = {name: term for name, term in terms.items() if term is not None}
        self.terms = dict(zip(given, torch.broadcast_tensors(*given.values()), strict=True))
        self.complete = bool(terms) and len(given) == len(terms)
        self.penalties = dict(penalties or {})
        self.weights = dict(weights or {})
        self.metrics = dict(metrics or {})

    @property
    def kl(self) -> Tensor | None:
        """The sum of all divergences, (..., batch); None where nothing is latent."""
        kls = [term for name, term in self.terms.items() if name.startswith("kl_")]
        return sum(kls[1:], kls[0]) if kls else None

    @property
    def negative_elbo(self) -> Tensor | None:
        """reconstruction + kl, (..., batch); None where there is no bound (a classifier, an auto-encoder)."""
        terms = list(self.terms.values())
        return sum(terms[1:], terms[0]) if self.complete else None

    @property
    def objective(self) -> Tensor:
        """What training minimises, a scalar: the terms' means over the batch and the penalties, weighted."""
        parts = {name: term.mean() for name, term in self.terms.items()} | self.penalties
        return sum((self.weights.get(name, 1.0) * part for name, part in parts.items()), torch.zeros(()))

    @property
    def importance_weighted(self) -> Tensor:
        """-log 1/m sum_k p(x, z_k) / q(z_k | x) from terms (m, batch) with sampled divergences: (batch,).

        Burda, Grosse and Salakhutdinov 2016, Importance Weighted Autoencoders (arXiv 1509.00519), equation 8.
        Raises ValueError where there is no bound.
        """
        if self.negative_elbo is None:
            raise ValueError("nothing here bounds log p(x): there are no importance weights")
        return math.log(len(self.negative_elbo)) - (-self.negative_elbo).logsumexp(0)

    def report(self) -> dict[str, Tensor]:
        """Every figure by name: `negative_elbo`, terms, `kl` and asides, (..., batch); penalties, scalars.

        Where nothing is latent, `negative_log_p` in place of the bound and its terms.
        """
        if self.complete and self.kl is None:  # nothing is latent: it is no bound, but the thing itself
            return {"negative_log_p": self.terms["reconstruction"], **self.metrics, **self.penalties}
        first = {
            "negative_elbo": self.negative_elbo,
            "reconstruction": self.terms.get("reconstruction"),
            "kl": self.kl,
        }
        sums = {name: value for name, value in first.items() if value is not None}
        return sums | self.terms | self.metrics | self.penalties


def scale_kl(beta: float | Tensor) -> AbstractContextManager:
    """Weighs a latent's divergence by beta: to stand around its site, in the model and in the guide.

    Around one of the two only it would weigh half a divergence, or none. A scale of zero is refused by Pyro,
    and a mask is what it means. As a scalar tensor beta may change from step to step.
    """
    if isinstance(beta, Tensor):
        return poutine.scale(scale=beta)
    if beta == 1:
        return nullcontext()
    return poutine.scale(scale=beta) if beta > 0 else poutine.mask(mask=False)


class _Mode(poutine.messenger.Messenger):
    """Makes every sample site take its distribution's most probable value instead of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            try:
                msg["value"] = msg["fn"].mode
            except NotImplementedError:  # a Delta has no mode, but its mean is its only value
                msg["value"] = msg["fn"].mean
            msg["done"] = True


_PREFIXES = itertools.count()  # of the instances in Pyro's parameter store


def _registers_parameters(program: Callable[..., None]) -> Callable[..., None]:
    """A model or guide that registers its parameters with Pyro before it runs, if `SVI` asks for them.

    `SVI` records parameters in a trace of param sites alone. Without such a trace nothing is registered, and
    Pyro's parameter store stays as it is.
    """

    @wraps(program)
    def registered(self: "LatentVariableModel", *args: Any, **kwargs: Any) -> None:
        if any(getattr(messenger, "param_only", False) for messenger in _PYRO_STACK):
            self.register_parameters()
        program(self, *args, **kwargs)

    return registered


class LatentVariableModel(nn.Module):
    """The contract of a model: `model`, `guide` and `bound`, written side by side in one file.

    `model` and `guide` are Pyro programs over one `pyro.plate("data", batch)`; `bound` takes the values
    that the guide sampled and works out the same objective from `ppl_models.densities` and the networks
    alone. All three take the same inputs, named in `inputs`. What is below follows from the pair, and
    serves every model as it stands.

    `pyro.infer.SVI(model.model, model.guide, optimizer, loss)` trains every parameter, for any number of
    instances in a process: the programs register the parameters under a prefix of the instance's own.

    Constructors take the data's `shape` and the number of `classes`, then keyword-only options with
    defaults, each annotated with what it means: the command line is made from that signature.
    """

    inputs: ClassVar[tuple[str, ...]] = ("x",)  # what `model`, `guide` and `bound` are given
    # The ELBOs that apply, the default first. "mean_field" is for guides whose latents come in the model's
    # order: in another order a closed KL term of one latent may depend on the sample of a later one.
    estimators: ClassVar[tuple[str, ...]] = ("trace",)
    # How levels become x: "binary", drawn as zeros and ones; "unit", 0 to 1; "centred", -1 to 1;
    # "dequantised", the same with noise of a level's width. "points" and "codes" are no images.
    observation: str = "binary"
    default_dataset: ClassVar[str | None] = None  # where no data set is named; None is MNIST, or else digits
    example_shape: ClassVar[tuple[int, ...]] = (1, 28, 28)  # the shape of images where none are at hand
    image_size: ClassVar[int | None] = (
        None  # images are zero-padded to side x side; None takes them as they are
    )
    interpolation_pairs: ClassVar[int] = 10  # how many pairs of test images are joined in a picture
    code_priors: ClassVar[tuple[str, ...]] = ()  # what can be learned on its codes afterwards, as `code_NAME`
    has_mean: ClassVar[bool] = True  # whether p(x | latents) has a mean image: if not, it is drawn from
    has_label: ClassVar[bool] = False  # whether x is generated from a label y, so that samples have a class
    defaults: ClassVar[dict[str, Any]] = {"steps": 20_000, "batch_size": 97, "lr": 1e-3}
    small_image_defaults: ClassVar[dict[str, Any]] = {}  # what changes on images of at most 16 x 16

    def __init__(self, shape: tuple[int, ...], classes: int = 0):
        super().__init__()
        self._prefix = next(_PREFIXES)
        self.shape, self.classes = tuple(shape), classes
        self.observation = self.observation_of(self.shape)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"model", "guide"} & vars(cls).keys():
            setattr(cls, name, _registers_parameters(vars(cls)[name]))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the weak references that Pyro's store hangs on parameters, which cannot be pickled."""
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives a copied or unpickled instance a prefix of its own in Pyro's parameter store."""
        super().__setstate__(state)
        self._prefix = next(_PREFIXES)

    def register_parameters(self) -> None:
        """Registers every trainable parameter in Pyro's parameter store, as `pyro.module` does.

        A parameter that replaced another one since (`load_state_dict(assign=True)`) replaces it in the store.
        """
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            full = f"{type(self).__name__}-{self._prefix}.{name}"
            if full in store and store[full] is not parameter:
                del store[full]
            if parameter.requires_grad and pyro.param(full, parameter) is not parameter:
                raise ValueError(f"{name} is not contiguous, and Pyro would train a copy: make it contiguous")

    def model(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """The generative process, p(x, latents), for a batch of observations."""
        raise NotImplementedError

    def guide(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """The approximate posterior, q(latents | x)."""
        raise NotImplementedError

    def bound(self, x: Tensor, latents: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> ELBOTerms:
        """The negative ELBO by hand, from the guide's own samples.

        Latents have the shapes that Pyro gives them: (particles, batch, event) with particles, and one more
        leading dimension with the values of an enumerated one, over which the bound sums.

        It takes what `model` takes and the keyword `kl`, which says how a divergence that has a closed form
        is worked out: by it ("closed", what `TraceMeanField_ELBO` does) or from the samples ("sampled", what
        `Trace_ELBO` does).
        """
        raise NotImplementedError

    def classify(self, x: Tensor) -> Tensor | None:
        """Logits of q(y | x), (batch, classes), where the guide has such a factor; None elsewhere."""
        return None

    def log_likelihood(self, x: Tensor) -> Tensor | None:
        """log p(x) of images (batch, *shape) in closed form, (batch,); None where it has none."""
        return None

    def code_counts(self, latents: Mapping[str, Tensor]) -> Tensor | None:
        """How many places of the latents are each entry of a codebook, (codes,); None where there is none."""
        return None

    def note(self) -> str | None:
        """What is worth saying of the model's options when training begins, in one line."""
        return None

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The most probable latents under the guide, site by site: name -> (batch, ...).

        y (batch,) holds labels, for a model that takes them as an input.
        """
        with poutine.trace() as tracer, _Mode():
            self.guide(x, **({} if y is None else {"y": y}))
        return latents_of(tracer.trace)

    @torch.no_grad()
    def prior(self, n: int) -> dict[str, Tensor]:
        """n samples of the latents from the generative process: name -> (n, ...). x is not sampled."""
        placeholder = next(self.parameters()).new_zeros(n, *self.shape)
        return latents_of(self.generate(n, {"x": placeholder}))

    @torch.no_grad()
    def decode(self, latents: Mapping[str, Tensor], y: Tensor | None = None) -> Tensor:
        """The mean image of p(x | latents, y), (batch, *shape), or a draw where there is none.

        Latents not given come from the prior.

        Raises:
            NotImplementedError: the model has no latents.
            ValueError: no latents are given, so that the number of images is unknown.
        """
        if not latents:
            name = type(self).__name__
            if not self.prior(1):
                raise NotImplementedError(f"{name} has no latents. Call sample(n) or log_likelihood(x)")
            raise ValueError(f"no latents of {name} are given. Name at least one, or call sample(n)")
        return self.sample(len(next(iter(latents.values()))), y, latents, noise=False)

    @torch.no_grad()
    def sample(
        self, n: int, y: Tensor | None = None, latents: Mapping[str, Tensor] | None = None, noise: bool = True
    ) -> Tensor:
        """n images from the generative process, (n, *shape): draws of x, or mean images without `noise`.

        Where the model has no mean images these are draws too. y (n,) holds labels, for a model that has
        them; where it must be given one and is not, classes are drawn evenly. `latents`, by name, are taken
        as given.

        Raises:
            NotImplementedError: the model has no p(x), such as a classifier alone.
        """
        site = self.generate(n, latents, y).nodes.get("x")
        if site is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no p(x) with these options. Call classify(x)"
            )
        return site["value"] if noise or not self.has_mean else site["fn"].mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean image decoded from the guide's most probable latents, (batch, *shape).

        Raises:
            NotImplementedError: the model has no latents.
        """
        return self.decode(self.encode(x, y), y)

    @torch.no_grad()
    def interpolate(self, codes: Mapping[str, Tensor], share: Tensor) -> dict[str, Tensor]:
        """Codes on the line from the first half of a batch to its second, at each share of the way.

        Name -> (pairs * steps, ...), pair by pair, for codes (2 * pairs, ...) and share (steps,).
        """

        def line(z: Tensor) -> Tensor:
            start, end = (half.unsqueeze(1) for half in z.chunk(2))
            t = share.to(z).view(-1, *[1] * (z.dim() - 1))
            return ((1 - t) * start + t * end).flatten(0, 1)

        return {name: line(z) for name, z in codes.items()}

    def generate(
        self, n: int, latents: Mapping[str, Tensor] | None = None, y: Tensor | None = None
    ) -> poutine.Trace:
        """The trace of the model run with x unobserved, n images, and the given latents held.

        If `latents` has a value for x, x is held too, so that it is not sampled.

        Raises ValueError where labels y are given to a model that has none.
        """
        given, inputs, like = dict(latents or {}), {}, next(self.parameters())
        if y is not None and not self.has_label:
            raise ValueError(f"{type(self).__name__} has no label: sample it without y")
        if "y" in self.inputs:
            inputs["y"] = torch.randint(self.classes, (n,), device=like.device) if y is None else y
        elif y is not None:  # the label is a latent like others, one-hot
            given["y"] = one_hot(y, self.classes).to(like.dtype)
        x = like.new_empty(n, *self.shape)
        program = poutine.condition(poutine.uncondition(self.model), data=given)
        return poutine.trace(program).get_trace(x, **inputs)

    @classmethod
    def observation_of(cls, shape: tuple[int, ...]) -> str:
        """What levels become in images of that shape: see `pixels`."""
        return cls.observation

    @classmethod
    def padded(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of images (channels, height, width) as the model takes them; of points (2,)."""
        if cls.observation == "points":
            return (2,)
        return tuple(shape) if cls.image_size is None else (shape[0], cls.image_size, cls.image_size)

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of the constructor: name -> parameter, with default and annotation."""
        parameters = inspect.signature(cls, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def latents_of(trace: poutine.Trace) -> dict[str, Tensor]:
    """The values of a guide's trace that were sampled, not observed, with their graph: name -> value."""
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


@torch.no_grad()
def draw_latents(model: LatentVariableModel, **inputs: Tensor) -> dict[str, Tensor]:
    """Latents from the guide, every value of an enumerated one: name -> (..., batch, event)."""
    with poutine.trace() as tracer, poutine.enum(first_available_dim=-2):
        model.guide(**inputs)
    return latents_of(tracer.trace)
